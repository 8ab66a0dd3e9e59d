"""Contrastive pretraining with Ray Train: the same loop in one process, on two laptop cores, or on many GPUs.

Every worker holds the whole key memory ("replicated"): all ranks work on the same anchor locations, each on its share
of the scans, and the keys are gathered before they are stored. The memory is no DDP buffer; it is never broadcast.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform.config import Recipe, config_hash
from ctplatform.errors import StageError
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.training import Loop

FOLDER = "pretrain"
METRICS_FILE, PROGRESS_FILE, CONFIG_FILE, CARD_FILE = (
    "metrics.jsonl",
    "progress.json",
    "config.json",
    "card.json",
)
#: Settings that change where and how fast a run goes, not what it computes: the same run goes on under others.
HARDWARE = {
    "num_workers",
    "use_gpu",
    "cpus_per_worker",
    "checkpoint_every",
    "keep_checkpoints",
    "max_failures",
    "log_every",
    "probe",
}


@dataclass(frozen=True)
class PretrainSummary:
    """A finished run: its name, steps, last logged metrics, and whether anything had to be trained."""

    run: str
    steps: int
    metrics: dict[str, float]
    trained: bool
    seconds: float


def run_name(workspace: Workspace, recipe: Recipe) -> str:
    """The run's name: the recipe's, and a hash of all that its result depends on."""
    from ctplatform.atlas import read_atlas
    from ctplatform.training import training_rows

    rows = training_rows(workspace, recipe)
    settings = recipe.pretrain.model_dump(mode="json", exclude=HARDWARE)
    content = [f"{row.scan_id} {row.content_hash}" for row in rows.itertuples()]
    return f"{recipe.name}-{config_hash(settings, read_atlas(workspace).hash, '|'.join(content))}"


def pretrain(
    workspace: Workspace,
    recipe: Recipe,
    *,
    cohort: pd.DataFrame | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> PretrainSummary:
    """Train an encoder on the workspace's shards; a run that was cut off goes on where its last checkpoint was.

    Args:
        workspace: holds the atlas, ledger, shards and split; receives `pretrain/<run>/`.
        recipe: `pretrain` says how, `watch` where it can be watched.
        cohort: the scan table; labels of its training subjects are what the probe looks at.
        on_progress: called about once a second with the newest metrics, `step` and `total_steps` among them.

    Raises:
        StageError: nothing to train on, or training failed for good.
        ConfigError: MLflow is asked for and not installed, or the probe's task does not exist.
    """
    from ctplatform.online_probe import select
    from ctplatform.watch import tracking_uri

    run = run_name(workspace, recipe)
    start = time.monotonic()
    if workspace.exists(FOLDER, run, CARD_FILE):
        return _summary(workspace, run, trained=False, seconds=0.0)
    mlflow, selection = tracking_uri(recipe.watch), select(workspace, recipe, cohort)
    workspace.write_json(recipe.model_dump(mode="json"), FOLDER, run, CONFIG_FILE)
    with _watch(workspace, run, on_progress):
        _fit(workspace, recipe, run, mlflow=mlflow, probe=selection.plain() if selection else None)
    return _summary(workspace, run, trained=True, seconds=time.monotonic() - start)


def _fit(
    workspace: Workspace, recipe: Recipe, run: str, *, mlflow: str | None, probe: dict[str, Any] | None
) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    config = recipe.pretrain
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={
            "workspace": workspace.uri,
            "recipe": recipe.model_dump(mode="json"),
            "run": run,
            "mlflow": mlflow,
            "probe": probe,
        },
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]  # which is Train V2's, with labels
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={
                "CPU": config.cpus_per_worker,
                **({"GPU": 1} if config.use_gpu else {}),
                **recipe.placement.pretrain.resources,
            },
            label_selector=recipe.placement.pretrain.labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=run,
            storage_path=workspace.path(FOLDER),
            storage_filesystem=workspace.fs,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        cause = str(error).strip().splitlines()
        raise StageError(
            f"pretraining {run} failed: {cause[-1] if cause else type(error).__name__}",
            "Read the workers' logs below /tmp/ray/session_latest/logs, mend the cause, run the same command again",
            code="pretrain",
        ) from error


def train_loop(config: dict[str, Any]) -> None:
    """What each worker runs."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from ctplatform.online_probe import OnlineProbe, Selection
    from ctplatform.training import Loop
    from ctplatform.watch import Watch

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
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            loop.load(Path(folder))

    if loop.rank == 0:
        loop.watch = Watch(workspace, recipe, config["run"], mlflow=config["mlflow"])
        if config["probe"]:
            loop.probe = OnlineProbe(
                workspace, recipe, config["run"], Selection(**config["probe"]), loop.atlas
            )

    def save(loop: Loop, metrics: dict[str, float]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = None
            if loop.rank == 0:
                loop.save(Path(folder))
                made = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=made)

    loop.run(on_checkpoint=save)


def read_metrics(workspace: Workspace, run: str) -> list[dict[str, Any]]:
    """All logged lines of a run, oldest first; none if there are none yet."""
    if not workspace.exists(FOLDER, run, METRICS_FILE):
        return []
    return [
        json.loads(line) for line in workspace.read_bytes(FOLDER, run, METRICS_FILE).decode().splitlines()
    ]


def _summary(workspace: Workspace, run: str, *, trained: bool, seconds: float) -> PretrainSummary:
    lines = read_metrics(workspace, run)
    last = lines[-1] if lines else {}
    return PretrainSummary(run, int(last.get("step", 0)), last, trained, seconds)


class _watch:
    """Calls back with the newest progress of a run, from a thread, while its body runs."""

    def __init__(
        self, workspace: Workspace, run: str, callback: Callable[[dict[str, Any]], None] | None
    ) -> None:
        self.workspace, self.run, self.callback = workspace, run, callback
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._poll, name="watch", daemon=True)

    def _poll(self) -> None:
        seen: Any = None
        while not self.stop.wait(1.0):
            if self.workspace.exists(FOLDER, self.run, PROGRESS_FILE):
                now = self.workspace.read_json(FOLDER, self.run, PROGRESS_FILE)
                if now != seen and self.callback:
                    self.callback(now)
                seen = now

    def __enter__(self) -> _watch:
        if self.callback:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        if self.callback:
            self.thread.join()
