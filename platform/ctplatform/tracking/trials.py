"""Tracking of a sweep's trials: one TensorBoard event file or MLflow run a trial.

Nothing here depends on what a trial is: callers pass names, settings and scores.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.fs as pafs

from ctplatform import __version__
from ctplatform.config.recipe import Recipe
from ctplatform.storage.layout import EVALUATION, MLFLOW_SWEEP_FILE, TENSORBOARD
from ctplatform.storage.workspace import Workspace
from ctplatform.tracking.sender import Sender

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEP_TAG, CELL_TAG, FINGERPRINT_TAG, PARENT_TAG = (
    "drasclr.sweep",
    "drasclr.cell",
    "drasclr.fingerprint",
    "mlflow.parentRunId",
)
Scalar = str | float


@dataclass(frozen=True)
class TrialEntry:
    """One trial, or one configuration of a search, as it is recorded.

    Args:
        name: of the MLflow run; also the folder of the event file.
        fingerprint: hash of what the result depends on; an entry with a known fingerprint is not recorded again.
        values: settings.
        curve: (step, name, number) in order; final scores have the number of training subjects as their step.
    """

    name: str
    fingerprint: str
    values: Mapping[str, Scalar]
    curve: Sequence[tuple[int, str, float]]


class TrialTensorBoard:
    """One small event file a trial, `evaluation/<run>/tensorboard/<trial>/`, written at once, for the HParams tab."""

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.workspace, self.run = workspace, run

    @property
    def known(self) -> set[str]:
        """Fingerprints of the trials that are recorded."""
        root = (EVALUATION, self.run, TENSORBOARD)
        everything = pafs.FileSelector(self.workspace.path(*root), allow_not_found=True, recursive=True)
        infos = self.workspace.with_retries(lambda: self.workspace.fs.get_file_info(everything), *root)
        return {info.base_name.rpartition(".")[2] for info in infos if info.is_file}

    def add(self, entry: TrialEntry) -> None:
        """Write an entry's event file, in place of an older one."""
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        with tempfile.TemporaryDirectory() as folder:
            # The values are drawn as hyper-parameters of a session; TensorBoard collects its columns from all sessions.
            _, begin, end = hparams(dict(entry.values), {})
            with SummaryWriter(folder) as writer:
                writer.file_writer.add_summary(begin)
                for step, name, value in entry.curve:
                    writer.add_scalar(name, value, step)
                writer.file_writer.add_summary(end)
            (file,) = Path(folder).glob("events.*")
            data = file.read_bytes()
        place = (EVALUATION, self.run, TENSORBOARD, *entry.name.split("/"))
        self.workspace.delete(*place)
        self.workspace.write_bytes(data, *place, f"events.out.tfevents.0.{entry.fingerprint}")

    def close(self) -> None:
        """Nothing to do: every file is complete."""


class TrialMLflow(Sender[TrialEntry]):
    """A parent run for the sweep with a child run for each trial; a resumed sweep continues its parent run."""

    def __init__(self, workspace: Workspace, recipe: Recipe, run: str, *, uri: str) -> None:
        self.workspace, self.recipe, self.run, self.uri = workspace, recipe, run, uri
        self._client: MlflowClient | None = None
        self._experiment, self._parent = "", ""
        self._sent: set[str] = set()
        super().__init__(
            name="mlflow-sweep",
            refused=f"MLflow does not take the trials of {run}",
            work="the sweep",
            lost=f"MLflow has not received all trials of the sweep of {run}",
        )

    @property
    def known(self) -> set[str]:
        """Empty: the sending thread compares with what the server holds."""
        return set()

    def add(self, entry: TrialEntry) -> None:
        """Queue a trial for sending. Configurations of a search are recorded on TensorBoard only."""
        if not entry.name.startswith("search/"):
            self._queue.put(entry)

    def _send(self, *, ended: bool) -> None:
        from mlflow.entities import Metric, Param

        client = self._client or self._connect()
        while self._pending:
            entry = self._pending[0]
            if entry.fingerprint not in self._sent:
                tags = {PARENT_TAG: self._parent, CELL_TAG: entry.name, FINGERPRINT_TAG: entry.fingerprint}
                child = client.create_run(self._experiment, run_name=entry.name, tags=tags).info.run_id
                now = int(time.time() * 1000)
                client.log_batch(
                    child,
                    metrics=[Metric(name, value, now, step) for step, name, value in entry.curve],
                    params=[Param(name, str(value)) for name, value in entry.values.items()],
                )
                client.set_terminated(child, "FINISHED")
                self._sent.add(entry.fingerprint)
                client.log_metric(self._parent, "trials", len(self._sent))
            del self._pending[0]
        if ended:
            client.set_terminated(self._parent, "FINISHED")

    def _connect(self) -> MlflowClient:
        """The client, once the sweep's parent run is continued or created."""
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(self.recipe.watch.experiment)
        self._experiment = (
            found.experiment_id if found else client.create_experiment(self.recipe.watch.experiment)
        )
        if self.workspace.exists(EVALUATION, self.run, MLFLOW_SWEEP_FILE):
            stored = self.workspace.read_json(EVALUATION, self.run, MLFLOW_SWEEP_FILE)["run_id"]
            try:
                client.update_run(stored, "RUNNING")
                self._parent = stored
                self._sent = self._children(client)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        if not self._parent:
            tags = {SWEEP_TAG: self.run, "drasclr.version": __version__, "drasclr.recipe": self.recipe.name}
            run = client.create_run(self._experiment, run_name=f"sweep of {self.run}", tags=tags)
            self._parent = run.info.run_id
            self.workspace.write_json({"run_id": self._parent}, EVALUATION, self.run, MLFLOW_SWEEP_FILE)
        self._client = client
        return client

    def _children(self, client: MlflowClient) -> set[str]:
        found: set[str] = set()
        token = None
        while True:
            page = client.search_runs(
                [self._experiment], f"tags.`{PARENT_TAG}` = '{self._parent}'", page_token=token
            )
            found |= {run.data.tags.get(FINGERPRINT_TAG, "") for run in page}
            token = page.token
            if not token:
                return found
