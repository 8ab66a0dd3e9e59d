"""The sweep on dashboards while it goes on: TensorBoard with its HParams tab, and MLflow with a run for each trial.

A trial appears when it is committed; one that was committed while nobody was logging appears with the next call. Shown
are task, initialisation, fraction, seed, what was chosen, scores and seconds: no scan, no subject, no path. A dashboard
that cannot be reached never stops a sweep.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.fs as pafs

from ctplatform import __version__
from ctplatform.config import Recipe
from ctplatform.courier import Courier
from ctplatform.tasks import get_task
from ctplatform.trial import FOLDER, Cell, Shared, Trial, read_trial
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
TENSORBOARD, MLFLOW_FILE = "tensorboard", "mlflow-sweep.json"
SWEEP_TAG, CELL_TAG, PRINT_TAG, PARENT_TAG = (
    "drasclr.sweep",
    "drasclr.cell",
    "drasclr.fingerprint",
    "mlflow.parentRunId",
)
Scalar = str | float


@dataclass(frozen=True)
class Entry:
    """One run of a dashboard.

    Args:
        name: of the run; also its folder.
        fingerprint: changes when the entry has to be made anew.
        values: what was set.
        curve: (step, name, number) in order; final scores have the number of training subjects as their step.
    """

    name: str
    fingerprint: str
    values: Mapping[str, Scalar]
    curve: Sequence[tuple[int, str, float]]


def entry_of(shared: Shared, trial: Trial) -> Entry:
    """A committed trial, scored on the test subjects."""
    problem, task = shared.problems[trial.cell.task], get_task(trial.cell.task)
    scores = {metric.name: metric.value(problem.test, trial.outcome) for metric in task.scores}
    scores |= {"seconds": trial.seconds, "n_test": trial.n_test, "n_train": trial.n_train}
    values: dict[str, Scalar] = {**asdict(trial.cell), **trial.details}
    curve = [(trial.n_train, name, value) for name, value in scores.items() if math.isfinite(value)]
    return Entry(trial.cell.name, shared.fingerprint(trial.cell), values, curve)


class Dashboards:
    """All dashboards of a sweep; the driver has one.

    Args:
        shared: the sweep's problems.
        recipe: `watch` says which dashboards.
        mlflow: `watch.tracking_uri`; None for no MLflow.
    """

    def __init__(self, shared: Shared, recipe: Recipe, *, mlflow: str | None = None) -> None:
        self.shared = shared
        self._boards: list[TensorBoard | MLflow] = []
        if recipe.watch.tensorboard:
            self._boards.append(TensorBoard(shared.workspace, shared.run))
        if mlflow:
            self._boards.append(MLflow(shared.workspace, recipe, shared.run, uri=mlflow))

    def __reduce__(self) -> tuple:
        """Tune writes its callbacks down with what they hold: a copy shows nothing, only the driver's own does."""
        return _silent, (self.shared,)

    def show(self, trials: Sequence[Trial]) -> None:
        """Trials of earlier calls: those that a dashboard lacks are added."""
        for board in self._boards:
            known = board.known
            for trial in trials:
                if self.shared.fingerprint(trial.cell) not in known:
                    board.add(entry_of(self.shared, trial))

    def committed(self, cell: Cell) -> None:
        """A trial has just been committed."""
        trial = read_trial(self.shared, cell) if self._boards else None
        if trial is not None:
            entry = entry_of(self.shared, trial)
            for board in self._boards:
                board.add(entry)

    def tried(
        self, cell: Cell, number: int, values: Mapping[str, float], losses: Sequence[tuple[int, float]]
    ) -> None:
        """A configuration of a search has ended, with its validation losses by step."""
        entry = Entry(
            f"search/{cell.name}-{number}",
            f"{self.shared.fingerprint(cell)}-{number}",
            {**asdict(cell), **values},
            [(step, "validation_loss", loss) for step, loss in losses if math.isfinite(loss)],
        )
        for board in self._boards:
            board.add(entry)

    def close(self) -> None:
        """The sweep has ended."""
        for board in self._boards:
            board.close()


def _silent(shared: Shared) -> Dashboards:
    boards = object.__new__(Dashboards)
    boards.shared, boards._boards = shared, []
    return boards


class TensorBoard:
    """One small event file a trial, `evaluation/<run>/tensorboard/<trial>/`, written whole, for the HParams tab."""

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.workspace, self.run = workspace, run

    @property
    def known(self) -> set[str]:
        """Fingerprints of the trials that are there."""
        root = (FOLDER, self.run, TENSORBOARD)
        everything = pafs.FileSelector(self.workspace.path(*root), allow_not_found=True, recursive=True)
        infos = self.workspace.patiently(lambda: self.workspace.fs.get_file_info(everything), *root)
        return {info.base_name.rpartition(".")[2] for info in infos if info.is_file}

    def add(self, entry: Entry) -> None:
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
        place = (FOLDER, self.run, TENSORBOARD, *entry.name.split("/"))
        self.workspace.delete(*place)
        self.workspace.write_bytes(data, *place, f"events.out.tfevents.0.{entry.fingerprint}")

    def close(self) -> None:
        """Nothing: every file is whole."""


class MLflow(Courier[Entry]):
    """A parent run for the sweep with a child run for each trial; a sweep that goes on continues its parent run.

    A thread talks to the server.
    """

    def __init__(self, workspace: Workspace, recipe: Recipe, run: str, *, uri: str) -> None:
        self.workspace, self.recipe, self.run, self.uri = workspace, recipe, run, uri
        self._client: MlflowClient | None = None
        self._experiment, self._parent = "", ""
        self._sent: set[str] = set()
        super().__init__(
            name="mlflow-sweep",
            refused=f"MLflow does not take the trials of {run}",
            what="the sweep",
            lost=f"MLflow has not received all trials of the sweep of {run}",
        )

    @property
    def known(self) -> set[str]:
        """Nothing, as far as the caller is concerned: the thread asks the server."""
        return set()

    def add(self, entry: Entry) -> None:
        """Send an entry, later; searched configurations are TensorBoard's, trials name what was chosen."""
        if not entry.name.startswith("search/"):
            self._queue.put(entry)

    def _send(self, *, ended: bool) -> None:
        from mlflow.entities import Metric, Param

        client = self._client or self._connect()
        while self._pending:
            entry = self._pending[0]
            if entry.fingerprint not in self._sent:
                tags = {PARENT_TAG: self._parent, CELL_TAG: entry.name, PRINT_TAG: entry.fingerprint}
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
        """Continue the parent run that this sweep began, or begin one."""
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(self.recipe.watch.experiment)
        self._experiment = (
            found.experiment_id if found else client.create_experiment(self.recipe.watch.experiment)
        )
        if self.workspace.exists(FOLDER, self.run, MLFLOW_FILE):
            stored = self.workspace.read_json(FOLDER, self.run, MLFLOW_FILE)["run_id"]
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
            self.workspace.write_json({"run_id": self._parent}, FOLDER, self.run, MLFLOW_FILE)
        self._client = client
        return client

    def _children(self, client: MlflowClient) -> set[str]:
        found: set[str] = set()
        token = None
        while True:
            page = client.search_runs(
                [self._experiment], f"tags.`{PARENT_TAG}` = '{self._parent}'", page_token=token
            )
            found |= {run.data.tags.get(PRINT_TAG, "") for run in page}
            token = page.token
            if not token:
                return found


def places(
    workspace: Workspace, recipe: Recipe, run: str, *, ray: str | None, mlflow: str | None
) -> list[str]:
    """Where to look, a line each: for people."""
    lines = []
    if ray:
        lines.append(f"Ray dashboard: http://{ray}")
        # Ray asks for a token unless told otherwise, and its start says so in the environment.
        if os.environ.get("RAY_AUTH_MODE") == "token":
            lines[-1] += " (asks for the token that `ray get-auth-token` prints)"
    if recipe.watch.tensorboard:
        lines.append(f"TensorBoard: tensorboard --logdir {workspace.display(FOLDER, run, TENSORBOARD)}")
    if mlflow:
        server = mlflow.partition("?")[0].rpartition("@")[2] if "@" in mlflow else mlflow
        lines.append(f"MLflow: experiment {recipe.watch.experiment!r} at {server}")
    return lines
