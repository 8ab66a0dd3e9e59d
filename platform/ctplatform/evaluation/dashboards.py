"""The sweep on dashboards while it goes on: TensorBoard with its HParams tab, and MLflow with a run for each trial.

A trial appears when it is committed; one that was committed while nobody was logging appears with the next call. Shown
are task, initialisation, fraction, seed, what was chosen, scores and seconds: no scan, no subject, no path. A dashboard
that cannot be reached never stops a sweep.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ctplatform.config.recipe import Recipe
from ctplatform.evaluation.cells import Cell, Shared, Trial, read_trial
from ctplatform.storage.layout import EVALUATION, TENSORBOARD
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task
from ctplatform.tracking.trials import Scalar, TrialEntry, TrialMLflow, TrialTensorBoard

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


def entry_of(shared: Shared, trial: Trial) -> TrialEntry:
    """A committed trial, scored on the test subjects."""
    problem, task = shared.problems[trial.cell.task], get_task(trial.cell.task)
    scores = {metric.name: metric.value(problem.test, trial.outcome) for metric in task.scores}
    scores |= {"seconds": trial.seconds, "n_test": trial.n_test, "n_train": trial.n_train}
    values: dict[str, Scalar] = {**asdict(trial.cell), **trial.details}
    curve = [(trial.n_train, name, value) for name, value in scores.items() if math.isfinite(value)]
    return TrialEntry(trial.cell.name, shared.fingerprint(trial.cell), values, curve)


class Dashboards:
    """All dashboards of a sweep; the driver has one.

    Args:
        shared: the sweep's problems.
        recipe: `watch` says which dashboards.
        mlflow: `tracking.tracking_uri`; None for no MLflow.
    """

    def __init__(self, shared: Shared, recipe: Recipe, *, mlflow: str | None = None) -> None:
        self.shared = shared
        self._boards: list[TrialTensorBoard | TrialMLflow] = []
        if recipe.watch.tensorboard:
            self._boards.append(TrialTensorBoard(shared.workspace, shared.run))
        if mlflow:
            self._boards.append(TrialMLflow(shared.workspace, recipe, shared.run, uri=mlflow))

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
        entry = TrialEntry(
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
        lines.append(f"TensorBoard: tensorboard --logdir {workspace.display(EVALUATION, run, TENSORBOARD)}")
    if mlflow:
        server = mlflow.partition("?")[0].rpartition("@")[2] if "@" in mlflow else mlflow
        lines.append(f"MLflow: experiment {recipe.watch.experiment!r} at {server}")
    return lines
