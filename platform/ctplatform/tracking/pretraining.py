"""Tracking of a pretraining run while it trains: TensorBoard event files, and MLflow as an extra.

Recorded are the numbers of `metrics.jsonl` under the same names, and the recipe's settings of pretraining: no scan, no
subject, no path. A tracking server that cannot be reached never stops a run.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform import __version__
from ctplatform.config.recipe import Recipe
from ctplatform.storage.layout import MLFLOW_FILE, PRETRAIN, TENSORBOARD
from ctplatform.storage.workspace import Workspace
from ctplatform.tracking.event_files import EventFile
from ctplatform.tracking.sender import Sender

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
RUN_TAG = "drasclr.run"
#: Beyond this size an uploaded event file is closed and another begun: every flush uploads the whole file.
UPLOAD_BYTES = 4 << 20
FLUSH_EVERY_S = 10.0
#: Lines a request; MLflow accepts a thousand numbers at a time.
LINES_AT_A_TIME = 25


def summarised(line: dict[str, Any]) -> str:
    """A line of `metrics.jsonl` for the console: losses, top-1, rank, throughput; missing values are left out."""
    parts = [f"loss {line['loss']:.2f} (local {line['local']:.2f}, global {line['global']:.2f})"]
    for name, text in (
        ("top1", "top-1 {:.0%}"),
        ("effective_rank", "rank {:.0f}"),
        ("probe", "probe {:.2f}"),
        ("patches_per_s", "{:.0f} patches/s"),
        ("data_wait", "{:.0%} wait"),
    ):
        value = line.get(name)
        if value is not None and math.isfinite(value):
            parts.append(text.format(value))
    if line.get("collapsed"):
        parts.append("collapsed")
    return ", ".join(parts)


class PretrainingTracker:
    """All trackers of a pretraining run; only rank 0 has them.

    Args:
        workspace: receives the event files.
        recipe: `watch` selects the trackers; the settings of `pretrain` are recorded.
        run: its name.
        mlflow: `tracking_uri` of the driver; None for no MLflow.
    """

    def __init__(self, workspace: Workspace, recipe: Recipe, run: str, *, mlflow: str | None = None) -> None:
        self._trackers: list[PretrainingTensorBoard | PretrainingMLflow] = []
        if recipe.watch.tensorboard:
            self._trackers.append(PretrainingTensorBoard(workspace, run))
        if mlflow:
            self._trackers.append(PretrainingMLflow(workspace, recipe, run, uri=mlflow))

    def log(self, line: dict[str, Any]) -> None:
        """Record the finite numbers of a line of `metrics.jsonl`."""
        numbers = {
            name: float(value)
            for name, value in line.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for tracker in self._trackers:
            tracker.log(int(line["step"]), numbers)

    def flush(self) -> None:
        """Write all lines where others can read them, without waiting for a server."""
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Mark the run as finished."""
        for tracker in self._trackers:
            tracker.close()


class PretrainingTensorBoard:
    """Event files in `pretrain/<run>/tensorboard`: written in place on a disk, uploaded by `flush` to an object store.

    A resumed run marks its first step: TensorBoard drops what a killed worker had written from that step on.
    """

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.workspace, self.run = workspace, run
        self._local: tempfile.TemporaryDirectory[str] | None = None
        self._file: EventFile | None = None
        self._number, self._flushed = 0, 0.0

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Add a line's numbers."""
        file = self._file or self._open(step)
        file.scalars(step, {tag: value for tag, value in numbers.items() if tag != "step"})
        if self._local is None and time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered; on an object store upload the newest file, and begin another if it is large."""
        if self._file is None:
            return
        self._file.flush()
        self._flushed = time.monotonic()
        if self._local is not None:
            path = self._file.path
            self.workspace.write_bytes(path.read_bytes(), PRETRAIN, self.run, TENSORBOARD, path.name)
            if path.stat().st_size > UPLOAD_BYTES:
                self._file.close()
                self._file = None
                path.unlink()

    def close(self) -> None:
        """Write and upload what is left."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._local is not None:
            self._local.cleanup()
            self._local = None

    def _open(self, step: int) -> EventFile:
        if self.workspace.is_local:
            folder = Path(self.workspace.path(PRETRAIN, self.run, TENSORBOARD))
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self._local = self._local or tempfile.TemporaryDirectory()
            folder = Path(self._local.name)
        resumed = False
        if self._number == 0:
            self._number = len(self.workspace.files(PRETRAIN, self.run, TENSORBOARD))
            resumed = self._number > 0
        self._number += 1
        self._file = EventFile(folder, self._number)
        if resumed:
            self._file.restart(step)
        return self._file


class PretrainingMLflow(Sender[tuple[int, int, dict[str, float]]]):
    """A run of an MLflow experiment; a resumed training run continues its MLflow run.

    An item that is sent is (milliseconds since the epoch, step, numbers).
    """

    def __init__(self, workspace: Workspace, recipe: Recipe, run: str, *, uri: str) -> None:
        self.workspace, self.recipe, self.run, self.uri = workspace, recipe, run, uri
        self._client: MlflowClient | None = None
        self._id, self._known = "", 0
        super().__init__(
            name="mlflow",
            refused=f"MLflow does not take the metrics of run {run}",
            work="training",
            lost=f"MLflow has not received the last lines of run {run}; metrics.jsonl has them",
        )

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Queue a line's numbers for sending."""
        self._queue.put((int(time.time() * 1000), step, numbers))

    def flush(self) -> None:
        """Nothing to do: lines are sent as they come."""

    def _send(self, *, ended: bool) -> None:
        from mlflow.entities import Metric

        client = self._client or self._connect()
        while self._pending:
            lines = self._pending[:LINES_AT_A_TIME]
            metrics = [
                Metric(name, value, stamp, step)
                for stamp, step, numbers in lines
                if step > self._known  # a resumed run repeats some steps, with the same numbers
                for name, value in numbers.items()
            ]
            if metrics:
                client.log_batch(self._id, metrics=metrics)
            self._known = max(self._known, lines[-1][1])
            del self._pending[: len(lines)]
        if ended:
            client.set_terminated(self._id, "FINISHED")

    def _connect(self) -> MlflowClient:
        """The client, once the MLflow run is continued or created."""
        for name in ("alembic", "mlflow.store.db.utils"):  # which log every table that they create
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(self.uri)
        if self.workspace.exists(PRETRAIN, self.run, MLFLOW_FILE):
            stored = self.workspace.read_json(PRETRAIN, self.run, MLFLOW_FILE)["run_id"]
            try:
                self._known = int(client.get_run(stored).data.metrics.get("step", 0))
                client.update_run(stored, "RUNNING")
                self._client, self._id = client, stored
                return client
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        found = client.get_experiment_by_name(self.recipe.watch.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self.recipe.watch.experiment)
        tags = {RUN_TAG: self.run, "drasclr.version": __version__, "drasclr.recipe": self.recipe.name}
        self._id = client.create_run(experiment, run_name=self.run, tags=tags).info.run_id
        for name, value in flatten(self.recipe.pretrain.model_dump(mode="json")).items():
            client.log_param(self._id, name, value)
        self.workspace.write_json({"run_id": self._id}, PRETRAIN, self.run, MLFLOW_FILE)
        self._client = client
        return client


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return found
