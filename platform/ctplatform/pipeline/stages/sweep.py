"""Stage `sweep`: task x initialisation x label fraction x seed, scored on held-out subjects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctplatform.pipeline.stage import Stage, StageResult
from ctplatform.storage.layout import EVALUATION, summary

if TYPE_CHECKING:
    from ctplatform.config.evaluation import SearchConfig
    from ctplatform.config.recipe import Recipe
    from ctplatform.pipeline.costs import Costs, Size, Work
    from ctplatform.pipeline.recorder import Recorder
    from ctplatform.pipeline.state import WorkspaceState


def _run(state: WorkspaceState, recorder: Recorder) -> StageResult:
    from ctplatform.compute.ray_internals import dashboard_address
    from ctplatform.evaluation.dashboards import places
    from ctplatform.evaluation.sweep import sweep
    from ctplatform.tracking.uri import tracking_uri

    workspace, recipe, run = state.workspace, state.recipe, state.required_run()
    mlflow = tracking_uri(recipe.watch)
    if dashboards := places(workspace, recipe, run, ray=dashboard_address(), mlflow=mlflow):
        recorder.announced(dashboards)
    done = sweep(workspace, state.cohort, recipe, run=run, on_progress=recorder.progress)
    return StageResult(done, str(done), complete=not done.failed)


def _digest(state: WorkspaceState) -> str:
    return state.file_digest(*summary(state.run)) if state.run else ""


def _cost(recipe: Recipe, size: Size, costs: Costs) -> Work:
    """End-to-end trials train a network for the same steps at every label fraction.

    So does each configuration of a search, as far as successive halving lets it. The model that is kept of a task on
    labels of subjects is the network of the trial with all labels; of label maps, one more is trained to validate it.
    """
    from ctplatform.pipeline.costs import DOCS, Work

    config = recipe.sweep
    scratch, tests = config.scratch, size.scans - size.training_scans
    hours, trials, longest = 0.0, 0, 0.0
    for fraction in config.fractions:
        subjects = max(1, round(fraction * size.training_scans))
        steps = scratch.epochs * math.ceil(size.training_scans / scratch.subjects_per_batch)
        steps = min(steps, scratch.max_steps or steps)
        batch = min(subjects, scratch.subjects_per_batch) * scratch.locations
        for initialisation in config.initialisations:
            seconds = costs.trial_s
            if initialisation in ("scratch", "finetune"):
                pool, training = min(scratch.pool, size.locations), steps * batch * costs.train_s
                longest = max(longest, training)
                seconds += training + tests * pool * costs.forward_s
                seconds += config.search.configurations * mean_share_of_steps(config.search) * training
            count = len(config.tasks) * config.seeds
            trials += count
            hours += count * seconds * config.cpus_per_trial / 3600
    hours += _trained_for_models(recipe) * longest * config.cpus_per_trial / 3600
    if config.gpus_per_trial > 0:
        basis = f"{DOCS}, as if a GPU were a core: an upper bound"
        return Work("sweep", trials, "trials", hours, hours * config.gpus_per_trial, basis=basis)
    return Work("sweep", trials, "trials", hours, basis=DOCS)


def _trained_for_models(recipe: Recipe) -> int:
    """Networks that are trained for the models that are kept, besides those of the trials."""
    from ctplatform.tasks.label_map import VolumeTask
    from ctplatform.tasks.registry import get_task

    config = recipe.sweep
    if "finetune" not in config.initialisations:
        return 0
    maps = sum(isinstance(get_task(name, recipe.tasks), VolumeTask) for name in config.tasks)
    return maps + (0 if 1.0 in config.fractions else len(config.tasks))


def mean_share_of_steps(config: SearchConfig) -> float:
    """Share of all steps that a configuration is trained for on average, if every rung keeps one in `reduction`."""
    total, before, kept, rung = 0.0, 0.0, 1.0, config.grace
    while before < 1:
        total += kept * (min(rung, 1) - before)
        before, kept, rung = min(rung, 1), kept / config.reduction, rung * config.reduction
    return total


def _unused(recipe: Recipe) -> tuple[str, ...]:
    """Settings of fine-tuning have no effect where nothing is fine-tuned."""
    return () if "finetune" in recipe.sweep.initialisations else ("sweep.finetune",)


def _discard(state: WorkspaceState) -> None:
    if state.run:
        state.workspace.delete(EVALUATION, state.run)


STAGE = Stage(
    name="sweep",
    help="Task x initialisation x label fraction x seed, on held-out subjects.",
    run=_run,
    inputs=("ledger", "split", "embeddings", "labels"),
    outputs={"results": _digest},
    settings=("sweep", "tasks", "pretrain.encoder", "prepare.quality.use_flagged"),
    hardware=("sweep.max_concurrent", "sweep.cpus_per_trial", "sweep.gpus_per_trial"),
    unused=_unused,
    of_run=True,
    cost=_cost,
    resumes_by_record=True,
    discard=_discard,
)
