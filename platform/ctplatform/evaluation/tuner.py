"""Ray Tune as the sweep and its search use it: resources, storage and attempts of the trials of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ctplatform.config.recipe import Recipe
from ctplatform.evaluation.context import SweepContext
from ctplatform.storage.layout import EVALUATION

#: Times that a caller begins trials again whose process was lost, beyond Tune's own second attempt: Tune (2.60) makes
#: none where the process is lost between two trials, whatever `max_failures` says.
RETRIES = 3


@dataclass(frozen=True)
class Ended:
    """A trial of Tune's that has ended.

    Args:
        name: what `name_of` made of its configuration. A trial that reported nothing has no configuration any more.
        trial_id: Tune's.
        metrics: what it reported last.
        error: what ended it, if anything did.
        lost: whether that was the loss of its process, or of the node of it.
    """

    name: str
    trial_id: str
    metrics: Mapping[str, Any]
    error: Exception | None
    lost: bool


def run_trials(
    trainable: Any,
    context: SweepContext,
    recipe: Recipe,
    *,
    folder: str,
    name_of: Callable[[dict[str, Any]], str],
    callback: Any,
    param_space: dict[str, Any] | None = None,
    **tune_config: Any,
) -> list[Ended]:
    """Run trials until each has ended; a process is kept for the next trial, with its imports and its patches.

    Args:
        trainable: function or class of Tune's; gets `context` beside its configuration.
        context: of the evaluation; its run's folder keeps Tune's files.
        recipe: `sweep` and `placement.sweep` have the resources of a trial.
        folder: below that of the run.
        name_of: a name for a configuration, without a slash.
        callback: a `tune.Callback`.
        param_space: as `tune.Tuner` takes it.
        tune_config: search algorithm, scheduler and number of samples, as `tune.TuneConfig` takes them.
    """
    from ray import tune
    from ray.exceptions import RayActorError

    config, workspace = recipe.sweep, context.workspace
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trainable, context=context),
            {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial, **recipe.placement.sweep.resources},
        ),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=config.max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{name_of(trial.config)}-{trial.trial_id}",
            **tune_config,
        ),
        run_config=tune.RunConfig(
            name=folder,
            storage_path=workspace.path(EVALUATION, context.run),
            storage_filesystem=None if workspace.is_local else workspace.fs,
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[callback],
            verbose=0,
        ),
    )
    results, ended = tuner.fit(), []
    for result in (results[i] for i in range(len(results))):
        name, _, trial_id = PurePath(result.path).name.rpartition("-")
        lost = isinstance(result.error, RayActorError)
        ended.append(Ended(name, trial_id, result.metrics or {}, result.error, lost))
    return ended
