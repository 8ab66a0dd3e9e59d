"""Where a run can be watched while it goes on: TensorBoard's event files, and MLflow as an extra.

What is shown there are the numbers of `metrics.jsonl`, under the same names, and the recipe's settings of pretraining:
no scan, no subject, no path. A dashboard that cannot be reached never stops a run.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform import __version__
from ctplatform.config.cluster import WatchConfig
from ctplatform.config.recipe import Recipe
from ctplatform.errors import ConfigError
from ctplatform.storage.layout import MLFLOW_FILE, PRETRAIN, TENSORBOARD
from ctplatform.storage.workspace import Workspace
from ctplatform.tracking.sender import Courier

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from tensorboardX.event_file_writer import EventsWriter

logger = logging.getLogger(__name__)
RUN_TAG = "drasclr.run"
#: An event file is closed beyond it where it is uploaded as a whole.
UPLOAD_BYTES = 4 << 20
FLUSH_EVERY_S = 10.0
#: Lines a request; MLflow takes a thousand numbers at a time.
LINES_AT_A_TIME = 25


def tracking_uri(watch: WatchConfig) -> str | None:
    """MLflow's tracking URI with variables filled in and a relative SQLite file made absolute; None: no MLflow.

    Called in the driver: workers have other working directories, and what is wrong shall be said before work begins.

    Raises:
        ConfigError: MLflow is not installed, a variable is not set, or MLflow does not take such a URI.
    """
    if not watch.mlflow:
        return None
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "watch.mlflow is set, but MLflow is not installed",
            'Install it with `pip install "drasclr[mlflow]"`, or leave watch.mlflow out',
            code="config",
        )
    uri = os.path.expandvars(watch.mlflow)
    unset = re.findall(r"\$\{?(\w+)\}?", uri)
    if unset:
        raise ConfigError(
            f"watch.mlflow names ${unset[0]}, which is not set", "Set it where the driver runs", code="config"
        )
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme == "file":
        raise ConfigError(
            "watch.mlflow is no tracking URI that MLflow takes: it no longer keeps runs in plain folders",
            "Give http(s)://HOST:PORT of a server, or sqlite:///FILE",
            code="config",
        )
    if scheme == "sqlite" and rest.startswith("/"):
        return f"sqlite:///{Path(rest[1:]).expanduser().absolute()}"
    return uri


def summarised(line: dict[str, Any]) -> str:
    """A line of `metrics.jsonl` for people: losses, contrast, rank, speed; what a line lacks is left out."""
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
    return ", ".join(parts)


class Watch:
    """All dashboards of a training run; rank 0 has one.

    Args:
        workspace: receives the event files.
        recipe: `watch` says which dashboards, `pretrain` is shown there.
        run: its name.
        mlflow: `tracking_uri` of the driver; None for no MLflow.
    """

    def __init__(self, workspace: Workspace, recipe: Recipe, run: str, *, mlflow: str | None = None) -> None:
        self._boards: list[TensorBoard | MLflow] = []
        if recipe.watch.tensorboard:
            self._boards.append(TensorBoard(workspace, run))
        if mlflow:
            self._boards.append(MLflow(workspace, recipe, run, uri=mlflow))

    def log(self, line: dict[str, Any]) -> None:
        """Show a line of `metrics.jsonl`."""
        numbers = {
            name: float(value)
            for name, value in line.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for board in self._boards:
            board.log(int(line["step"]), numbers)

    def flush(self) -> None:
        """Have everything where others can read it, as far as that takes no waiting for a server."""
        for board in self._boards:
            board.flush()

    def close(self) -> None:
        """The run has ended well."""
        for board in self._boards:
            board.close()


class TensorBoard:
    """Event files in `pretrain/<run>/tensorboard`: written there on a disk, uploaded at each flush to an object store.

    A run that goes on marks its first step, from which on TensorBoard forgets what a killed worker had written.
    tensorboardX's own SummaryWriter queues events in another thread and cannot be told to have them all on disk, which
    is what a checkpoint has to rely on; so its event writer is used without that queue.
    """

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.workspace, self.run = workspace, run
        self._local: tempfile.TemporaryDirectory | None = None
        self._writer: EventsWriter | None = None
        self._number, self._flushed = 0, 0.0

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Add a line's numbers."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        writer = self._writer or self._open(step)
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in numbers.items() if tag != "step"]
        writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if self._local is None and time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered; on an object store upload the newest file, and begin another if it is large."""
        if self._writer is None:
            return
        self._writer.flush()
        self._flushed = time.monotonic()
        if self._local is not None:
            file = Path(self._writer._file_name)
            self.workspace.write_bytes(file.read_bytes(), PRETRAIN, self.run, TENSORBOARD, file.name)
            if file.stat().st_size > UPLOAD_BYTES:
                self._writer.close()
                self._writer = None
                file.unlink()

    def close(self) -> None:
        """Write and upload what is left."""
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._local is not None:
            self._local.cleanup()
            self._local = None

    def _open(self, step: int) -> EventsWriter:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if self.workspace.is_local:
            folder = Path(self.workspace.path(PRETRAIN, self.run, TENSORBOARD))
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self._local = self._local or tempfile.TemporaryDirectory()
            folder = Path(self._local.name)
        # The first file of a process that goes on says from where; TensorBoard reads files in the order of their names.
        goes_on = False
        if self._number == 0:
            self._number = len(self.workspace.files(PRETRAIN, self.run, TENSORBOARD))
            goes_on = self._number > 0
        self._number += 1
        self._writer = EventsWriter(str(folder / "events"), f".{self._number:05d}")
        if goes_on:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))
        return self._writer


class MLflow(Courier[tuple[int, int, dict[str, float]]]):
    """A run of an MLflow experiment; a training run that goes on continues the one it began.

    A thread talks to the server; an item is (milliseconds since the epoch, step, numbers).
    """

    def __init__(self, workspace: Workspace, recipe: Recipe, run: str, *, uri: str) -> None:
        self.workspace, self.recipe, self.run, self.uri = workspace, recipe, run, uri
        self._client: MlflowClient | None = None
        self._id, self._known = "", 0
        super().__init__(
            name="mlflow",
            refused=f"MLflow does not take the metrics of run {run}",
            what="training",
            lost=f"MLflow has not received the last lines of run {run}; metrics.jsonl has them",
        )

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Send a line's numbers, later."""
        self._queue.put((int(time.time() * 1000), step, numbers))

    def flush(self) -> None:
        """Nothing: lines go out as they come."""

    def _send(self, *, ended: bool) -> None:
        from mlflow.entities import Metric

        client = self._client or self._connect()
        while self._pending:
            lines = self._pending[:LINES_AT_A_TIME]
            metrics = [
                Metric(name, value, stamp, step)
                for stamp, step, numbers in lines
                if step > self._known  # a run that goes on repeats some steps, with the same numbers
                for name, value in numbers.items()
            ]
            if metrics:
                client.log_batch(self._id, metrics=metrics)
            self._known = max(self._known, lines[-1][1])
            del self._pending[: len(lines)]
        if ended:
            client.set_terminated(self._id, "FINISHED")

    def _connect(self) -> MlflowClient:
        """Continue the run that this training run began, or begin one."""
        for name in ("alembic", "mlflow.store.db.utils"):  # which tell of every table they make
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
        for name, value in flat(self.recipe.pretrain.model_dump(mode="json")).items():
            client.log_param(self._id, name, value)
        self.workspace.write_json({"run_id": self._id}, PRETRAIN, self.run, MLFLOW_FILE)
        self._client = client
        return client


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found
