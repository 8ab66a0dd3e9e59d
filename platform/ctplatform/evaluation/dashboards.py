"""Dashboards of a running sweep: TensorBoard with its HParams tab, and MLflow with a run for each trial.

A trial appears when it is committed; one that was committed without dashboards appears with the next sweep. Task,
initialisation, fraction, seed, chosen hyper-parameters, scores and seconds are shown: no scan, no subject, no path. A
dashboard that cannot be reached never stops a sweep.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ctplatform.config.recipe import Recipe
from ctplatform.evaluation.cells import Cell, Trial
from ctplatform.evaluation.context import SweepContext
from ctplatform.storage.layout import EVALUATION, TENSORBOARD
from ctplatform.storage.workspace import Workspace
from ctplatform.tracking.trials import Scalar, TrialEntry, TrialMLflow, TrialTensorBoard

logger = logging.getLogger(__name__)


def entry_of(context: SweepContext, trial: Trial) -> TrialEntry:
    """A committed trial, scored on the test subjects."""
    problem = context.problems[trial.cell.task]
    scores = {metric.name: metric.value(problem.test, trial.outcome) for metric in problem.task.scores}
    scores |= {"seconds": trial.seconds, "n_test": trial.n_test, "n_train": trial.n_train}
    values: dict[str, Scalar] = {**asdict(trial.cell), **trial.details}
    curve = [(trial.n_train, name, value) for name, value in scores.items() if math.isfinite(value)]
    return TrialEntry(trial.cell.name, context.fingerprint(trial.cell), values, curve)


class Dashboards:
    """All dashboards of a sweep, written by the driver.

    Args:
        context: the sweep's problems.
        recipe: `watch` says which dashboards.
        mlflow: `tracking.tracking_uri`; None for no MLflow.
    """

    def __init__(self, context: SweepContext, recipe: Recipe, *, mlflow: str | None = None) -> None:
        self.context = context
        self._boards: list[TrialTensorBoard | TrialMLflow] = []
        if recipe.watch.tensorboard:
            self._boards.append(TrialTensorBoard(context.workspace, context.run))
        if mlflow:
            self._boards.append(TrialMLflow(context.workspace, recipe, context.run, uri=mlflow))

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune saves its callbacks with all that they refer to; a restored copy has no dashboards."""
        return _silent, (self.context,)

    def show(self, trials: Sequence[Trial]) -> None:
        """Trials of earlier calls: those that a dashboard lacks are added."""
        for board in self._boards:
            known = board.known
            for trial in trials:
                if self.context.fingerprint(trial.cell) not in known:
                    board.add(entry_of(self.context, trial))

    def committed(self, cell: Cell) -> None:
        """A trial has just been committed."""
        trial = self.context.read_trial(cell) if self._boards else None
        if trial is not None:
            entry = entry_of(self.context, trial)
            for board in self._boards:
                board.add(entry)

    def tried(
        self, cell: Cell, number: int, values: Mapping[str, float], losses: Sequence[tuple[int, float]]
    ) -> None:
        """A configuration of a search has ended, with its validation losses by step."""
        entry = TrialEntry(
            f"search/{cell.name}-{number}",
            f"{self.context.fingerprint(cell)}-{number}",
            {**asdict(cell), **values},
            [(step, "validation_loss", loss) for step, loss in losses if math.isfinite(loss)],
        )
        for board in self._boards:
            board.add(entry)

    def close(self) -> None:
        """The sweep has ended."""
        for board in self._boards:
            board.close()


def _silent(context: SweepContext) -> Dashboards:
    boards = object.__new__(Dashboards)
    boards.context, boards._boards = context, []
    return boards


def places(
    workspace: Workspace, recipe: Recipe, run: str, *, ray: str | None, mlflow: str | None
) -> list[str]:
    """Addresses of the dashboards, a line each, for the console."""
    lines = []
    if ray:
        lines.append(f"Ray dashboard: http://{ray}")
        # Token authentication is Ray's default here; the session sets the variable when it starts Ray.
        if os.environ.get("RAY_AUTH_MODE") == "token":
            lines[-1] += " (asks for the token that `ray get-auth-token` prints)"
    if recipe.watch.tensorboard:
        lines.append(f"TensorBoard: tensorboard --logdir {workspace.display(EVALUATION, run, TENSORBOARD)}")
    if mlflow:
        server = mlflow.partition("?")[0].rpartition("@")[2] if "@" in mlflow else mlflow
        lines.append(f"MLflow: experiment {recipe.watch.experiment!r} at {server}")
    return lines
