"""Contrastive pretraining with Ray Train: the same loop in one process, on two laptop cores, or on many GPUs.

Ray Train starts the workers, restarts them when one of them or its node is lost, and with `min_workers` adapts their
number to the cluster. In all of these cases, and when the same command is given again, a run resumes from its own
checkpoints (`checkpoints`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctplatform.compute.failures import explained
from ctplatform.compute.ray_internals import own_cluster
from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import RestartRequested, StageError
from ctplatform.storage.layout import CARD_FILE, CONFIG_FILE, PRETRAIN, PROGRESS_FILE
from ctplatform.storage.workspace import Workspace
from ctplatform.tracking.pretraining import PretrainingTracker
from ctplatform.tracking.uri import tracking_uri
from ctplatform.training import partition
from ctplatform.training.initial_weights import initial_card, keep_initial
from ctplatform.training.online_probe import OnlineProbe, ProbeSubjects, select_subjects
from ctplatform.training.runs import read_metrics, run_name, training_rows
from ctplatform.training.stop_request import StopRequest, StopWatch

if TYPE_CHECKING:
    import pandas as pd


logger = logging.getLogger(__name__)
#: Codes of errors that come again when the run resumes from its last checkpoint.
FINAL = ("diverged", "collapsed")
#: Settings of glibc's allocator in training workers: keep freed memory. Each step needs as much as the one before, and
#: requesting it from the system again slows down two workers on two cores. Ray Train trains in a thread of its own,
#: whose arena would return memory whatever the other settings are, hence a single arena. Other allocators ignore these.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


@dataclass(frozen=True)
class PretrainSummary:
    """A finished run: its name, steps, last logged metrics, and whether anything had to be trained.

    `initial`: what it started from, what of it is kept and what is new; None for random weights.
    `selection`: with `best_by: probe` the step and score of the encoder that is published, and the steps made.
    """

    run: str
    steps: int
    metrics: dict[str, float]
    trained: bool
    seconds: float
    initial: dict[str, Any] | None = None
    selection: dict[str, Any] | None = None


def pretrain(
    workspace: Workspace,
    recipe: Recipe,
    *,
    cohort: pd.DataFrame | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> PretrainSummary:
    """Train an encoder on the workspace's shards; an interrupted run resumes from its last checkpoint.

    Args:
        workspace: holds the atlas, ledger, shards and split; receives `pretrain/<run>/`.
        recipe: `pretrain` has the settings, `watch` those of experiment tracking.
        cohort: the scan table; the online probe uses the labels of its training subjects.
        on_progress: called about once a second with the newest metrics, `step` and `total_steps` among them.

    SIGTERM stops the run after its step, with a checkpoint of it. So does a notice that a node is about to go; training
    then resumes on the other nodes.

    Raises:
        StageError: nothing to train on, no labels for the probe that `best_by` needs, training failed more often than
            `max_failures` allows, or it diverged or collapsed; no retry helps then.
        RestartRequested: SIGTERM came; the same call resumes.
        ConfigError: MLflow is configured and not installed, or the probe's task does not exist.
    """
    run = run_name(workspace, recipe)
    start = time.monotonic()
    if workspace.exists(PRETRAIN, run, CARD_FILE):
        return _summary(workspace, run, trained=False, seconds=0.0)
    _check(workspace, recipe)
    mlflow, probe = tracking_uri(recipe.watch), select_subjects(workspace, recipe, cohort)
    if probe is None and recipe.pretrain.best_by == "probe":
        raise StageError(
            "pretrain.best_by=probe: the training subjects have too few labels of the probe's task",
            "Give --cohort with labels of pretrain.probe.task, or leave pretrain.best_by out",
            code="few-labels",
        )
    keep_initial(workspace, recipe, run)
    workspace.write_json(recipe.model_dump(mode="json"), PRETRAIN, run, CONFIG_FILE)
    with ProgressPoller(workspace, run, on_progress):
        _fit(workspace, recipe, run, mlflow=mlflow, probe=probe.plain() if probe else None)
    return _summary(workspace, run, trained=True, seconds=time.monotonic() - start)


def _check(workspace: Workspace, recipe: Recipe) -> None:
    """Raise here what every worker would raise, instead of after `max_failures` restarts."""
    config, scans = recipe.pretrain, len(training_rows(workspace, recipe))
    for world in {config.min_workers or config.num_workers, config.num_workers}:
        partition.check_workers(config, read_atlas(workspace), scans, max(1, world))


def _fit(
    workspace: Workspace, recipe: Recipe, run: str, *, mlflow: str | None, probe: dict[str, Any] | None
) -> None:
    """Train until the run ends, or this process is requested to."""
    with StopRequest(workspace, run) as request:
        while True:
            ended = _train(workspace, recipe, run, mlflow=mlflow, probe=probe)
            if "error" in ended:
                raise StageError(**ended["error"])
            step = ended.get("stopped")
            if request.received:
                how = (
                    "had just ended when SIGTERM came"
                    if step is None
                    else f"was stopped by SIGTERM after step {step}"
                )
                raise RestartRequested(
                    f"pretraining {run} {how}, and is stored",
                    "Run the same command again: it goes on there",
                    code="stopped",
                )
            if step is None:
                return
            logger.warning("a node is about to go: %s resumes at step %d without it", run, step)


def _train(
    workspace: Workspace, recipe: Recipe, run: str, *, mlflow: str | None, probe: dict[str, Any] | None
) -> dict[str, Any]:
    """What `train_loop` of rank 0 returned."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    config = recipe.pretrain
    if config.min_workers:
        # How long Ray Train waits for a node that has just been lost, before it counts the available ones again.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    workers: Any = (config.min_workers, config.num_workers) if config.min_workers else config.num_workers
    trainer = TorchTrainer(
        train_loop,  # type: ignore[arg-type]  # Train V2 hands on what it returns
        train_loop_config={
            "workspace": workspace.uri,
            "recipe": recipe.model_dump(mode="json"),
            "run": run,
            "mlflow": mlflow,
            "probe": probe,
        },
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]  # Train V2's, with labels
            num_workers=workers,
            elastic_resize_monitor_interval_s=config.resize_every_s,
            use_gpu=bool(config.use_gpu),
            resources_per_worker={
                "CPU": config.cpus_per_worker,
                **({"GPU": 1} if config.use_gpu else {}),
                **recipe.placement.pretrain.resources,
            },
            label_selector=recipe.placement.pretrain.labels or None,
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # as above
            name=run,
            storage_path=workspace.path(PRETRAIN),
            storage_filesystem=workspace.fs,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            worker_runtime_env={"env_vars": MALLOC},
        ),
    )
    try:
        with own_cluster():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        found = explained(error)
        if isinstance(found, StageError):
            raise found from error
        cause = str(error).strip().splitlines()
        raise StageError(
            f"pretraining {run} failed: {cause[-1] if cause else type(error).__name__}",
            "Read the workers' logs below /tmp/ray/session_latest/logs, fix the cause, and run the same command again",
            code="pretrain",
        ) from error
    ended: dict[str, Any] = getattr(result, "return_value", None) or {}
    return ended


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """The training function of each worker, started by Ray Train.

    Returns:
        Empty if the run has finished; {"stopped": step} if it was interrupted; {"error": arguments of StageError} where
        it diverged or collapsed, since Ray Train would repeat a function that raises.
    """
    import ray.train
    import torch
    from ray.train.torch import get_device

    from ctplatform.training.loop import Loop
    from ctplatform.training.stop_agreement import Interrupted

    workspace, recipe = Workspace(config["workspace"]), Recipe.model_validate(config["recipe"])
    context = ray.train.get_context()
    device = get_device() if recipe.pretrain.use_gpu else torch.device("cpu")
    loop = Loop(
        workspace,
        recipe,
        config["run"],
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
    )
    if loop.rank == 0:
        loop.log.tracker = PretrainingTracker(workspace, recipe, config["run"], mlflow=config["mlflow"])
    if config["probe"]:
        loop.probe = OnlineProbe(
            workspace,
            recipe,
            config["run"],
            ProbeSubjects(**config["probe"]),
            loop.atlas,
            rank=loop.rank,
            world=loop.world,
        )
    watch = StopWatch(workspace, config["run"], rank=loop.rank)
    loop.interrupted = watch.requested
    loop.resume()
    try:
        loop.run()
    except Interrupted as stop:
        return {"stopped": stop.step}
    except StageError as error:
        if error.code not in FINAL:
            raise
        return {"error": {"problem": error.problem, "remedy": error.remedy, "code": error.code}}
    finally:
        watch.close()
    return {}


def _summary(workspace: Workspace, run: str, *, trained: bool, seconds: float) -> PretrainSummary:
    lines = read_metrics(workspace, run)
    last = lines[-1] if lines else {}
    provenance = workspace.read_json(PRETRAIN, run, CARD_FILE).get("provenance", {})
    return PretrainSummary(
        run,
        int(last.get("step", 0)),
        last,
        trained,
        seconds,
        initial_card(workspace, run),
        provenance.get("selection"),
    )


class ProgressPoller:
    """A context during which a thread calls back with the newest line of a run, about once a second."""

    def __init__(
        self, workspace: Workspace, run: str, callback: Callable[[dict[str, Any]], None] | None
    ) -> None:
        self.workspace, self.run, self.callback = workspace, run, callback
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._poll, name="progress", daemon=True)

    def _poll(self) -> None:
        seen: Any = None
        while not self.stop.wait(1.0):
            if self.workspace.exists(PRETRAIN, self.run, PROGRESS_FILE):
                now = self.workspace.read_json(PRETRAIN, self.run, PROGRESS_FILE)
                if now != seen and self.callback:
                    self.callback(now)
                seen = now

    def __enter__(self) -> ProgressPoller:
        if self.callback:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        if self.callback:
            self.thread.join()
