"""A model of a task that may be kept, what comes of fitting it, and the parts of its card that all kinds have."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.context import SweepContext
from ctplatform.evaluation.problems import Problem
from ctplatform.evaluation.trained_network import TrainedNetwork, all_labels, read_network
from ctplatform.metrics.scores import Metric, Targets
from ctplatform.tasks.task import Task


@dataclass(frozen=True)
class Outcome:
    """A fitted model.

    Args:
        files: makes the content of its files of a card.
        validation: `metric`, `value` (None where it is undefined) and `subjects` of the score that models of a task are
            chosen by, on training subjects that the scored fits had not seen.
        card: entries of the card that come from the fit.
    """

    files: Callable[[Mapping[str, Any]], dict[str, bytes]]
    validation: Mapping[str, Any]
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Candidate(ABC):
    """A model of a task from one initialisation.

    Args:
        context: of the sweep.
        name: of the task.
        initialisation: its features, or where its training starts.
        features: the card's `features`.
        fraction: the sweep's largest share of labels, whose searched hyper-parameters are taken.
    """

    context: SweepContext
    name: str
    initialisation: str
    features: Mapping[str, Any]
    fraction: float

    #: Whether fitting needs the resources of a trial.
    trains_a_network: ClassVar[bool] = False

    @property
    def problem(self) -> Problem:
        """The task's labelled subjects."""
        return self.context.problems[self.name]

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.problem.task

    @property
    def higher_is_better(self) -> bool:
        """Of the score that models of the task are chosen by."""
        return self.task.scores[0].higher_is_better

    @property
    def cell(self) -> Cell:
        """Its trial with all labels."""
        return all_labels(self.name, self.initialisation)

    def trained(self) -> TrainedNetwork:
        """The network of the trial with all labels; trained here where the sweep has no such trial, or an older one."""
        context, cell = self.context, self.cell
        found = read_network(context.workspace, context.run, cell, fit=context.fingerprint(cell))
        if found is None:
            searched = replace(cell, fraction=self.fraction)
            chosen = context.read_chosen(searched) if context.searches(searched) else None
            rows = np.arange(len(self.problem.train))
            found = self.problem.predict(cell, rows, context.training, chosen=chosen).network
        assert found is not None
        return found

    @abstractmethod
    def digest(self) -> str:
        """Changes when the fit would come out differently."""

    @abstractmethod
    def fit(self) -> Outcome | str:
        """Fit on all training subjects; or why it cannot be kept. Runs in a worker process.

        Raises:
            StageError: the labels do not allow a fit.
        """

    def card(self) -> dict[str, Any]:
        """The task, the features and the training labels."""
        task = self.task
        return {
            "task": {
                "name": task.name,
                "title": task.title,
                "unit": task.unit,
                "columns": list(task.columns),
                "values": dict(task.values),
                "at_least": task.at_least,
            },
            "initialisation": self.initialisation,
            "features": dict(self.features),
            "trained_on": self.trained_on(),
        }

    def trained_on(self) -> dict[str, Any]:
        """The training labels in numbers; no subject is named."""
        train = self.problem.train
        value_N = train.value_N.astype(float)
        found: dict[str, Any] = {"subjects": len(train), "least": value_N.min(), "most": value_N.max()}
        if train.event_N is not None:
            return found | {"events": int(train.event_N.sum())}
        if self.task.kind == "regression":
            return found | {"mean": float(value_N.mean()), "sd": float(value_N.std())}
        labels, counts = np.unique(value_N, return_counts=True)
        return found | {"labels": {f"{label:g}": int(count) for label, count in zip(labels, counts)}}

    def scores(self, summary: pd.DataFrame) -> list[dict[str, Any]]:
        """Scores of the sweep's trials on held-out subjects, with the largest share of labels."""
        rows = summary[
            (summary["task"] == self.task.name) & (summary["initialisation"] == self.initialisation)
        ]
        rows = rows[rows["fraction"] == rows["fraction"].max()]
        columns = ["metric", "value", "low", "high", "chance", "n_train", "n_test", "n_seeds"]
        plain = rows[columns].astype(object).where(rows[columns].notna(), None)
        return [dict(zip(columns, row)) for row in plain.itertuples(index=False, name=None)]


def validation(
    metric: Metric, train: Targets, out_of_fold_N: np.ndarray | None, *, folds: int
) -> dict[str, Any]:
    """A score of predictions out of fold."""
    value = None if out_of_fold_N is None else metric.value(train, out_of_fold_N)
    return {"metric": metric.name, "value": finite(value), "subjects": len(train), "folds": folds}


def finite(value: float | None) -> float | None:
    """None for what is no number."""
    return float(value) if value is not None and math.isfinite(value) else None
