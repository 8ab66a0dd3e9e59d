"""Cells of the sweep's grid, their results, and which labels each of them uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ctplatform.errors import StageError
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import stratified_order
from ctplatform.tasks.task import Task


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    task: str
    initialisation: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """Stem of the names of its files."""
        return f"{self.task}-{self.initialisation}-{self.fraction:g}-{self.seed}"


@dataclass(frozen=True)
class Chosen:
    """The configuration that the search in a cell has chosen.

    Args:
        lr: learning rate of the chosen configuration.
        weight_decay: its weight decay.
        configurations: how many were tried.
        stopped: how many of them were stopped early.
        seconds: of all of them together.
    """

    lr: float
    weight_decay: float
    configurations: int
    stopped: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """The result of a cell.

    Args:
        cell: of which.
        n_train: training subjects whose labels were used.
        n_test: test subjects.
        seconds: of fitting and predicting.
        notes: what a reader of the results must know, one sentence each.
        predictions: a row a test subject; on label maps a row a test subject and class, with a column `numbers`.
        details: hyper-parameters that were chosen, and checks of the fit.
    """

    cell: Cell
    n_train: int
    n_test: int
    seconds: float
    notes: tuple[str, ...]
    predictions: pd.DataFrame
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> np.ndarray:
        """Input of the metrics: a prediction a test subject, [N]; on label maps K numbers a class, [N, C, K]."""
        if "numbers" not in self.predictions:
            return np.asarray(self.predictions["prediction"].to_numpy())
        numbers = np.stack(self.predictions["numbers"].to_list()).astype(float)
        return numbers.reshape(self.n_test, -1, numbers.shape[1])


def label_subset(task: Task, train: Targets, *, fraction: float, seed: int) -> np.ndarray:
    """Rows of the training subjects whose labels are used, sorted.

    Subsets of one seed are nested and stratified. A fraction that is too small to fit a head is raised to the smallest
    number of labels on which one can be fitted.

    Raises:
        StageError: even all labels are too few.
    """
    task.check(train)
    order = stratified_order(task.strata(train), seed=seed)
    count = max(task.minimum, round(fraction * len(train)))
    while True:
        rows = np.sort(order[:count])
        try:
            task.check(train.take(rows))
        except StageError:
            count += 1
        else:
            return rows
