"""Problems: a task's labelled subjects on both sides of the split, and how their labels are predicted."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from ctplatform.evaluation.cells import Cell, Chosen
from ctplatform.evaluation.initialisations import END_TO_END
from ctplatform.evaluation.models import Training, end_to_end, patch_pool
from ctplatform.evaluation.trained_network import TrainedNetwork, leaves_network, network_of_subjects
from ctplatform.metrics.scores import Targets
from ctplatform.tasks.task import Task

if TYPE_CHECKING:
    from ctplatform.evaluation.slices import Slice


@dataclass(frozen=True)
class Prediction:
    """What a fit predicts for the test subjects.

    Args:
        table: `Trial.predictions`.
        details: `Trial.details`.
        slices: of predicted label maps, for the report.
        network: that was trained, of a trial whose network is kept.
    """

    table: pd.DataFrame
    details: Mapping[str, float] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    network: TrainedNetwork | None = None


@dataclass(frozen=True)
class Problem(ABC):
    """A task with its labelled subjects on both sides of the split.

    Args:
        task: what is predicted.
        train_subjects: ids.
        train: their targets, in the same order.
        test_subjects: ids.
        test: their targets, in the same order.
        features: initialisation -> frozen vectors of the training and the test subjects, [N, P] each.
    """

    task: Task
    train_subjects: tuple[str, ...]
    train: Targets
    test_subjects: tuple[str, ...]
    test: Targets
    features: Mapping[str, tuple[np.ndarray, np.ndarray]]

    searchable: ClassVar[bool]
    """Whether hyper-parameters of end-to-end training can be searched."""

    def digest(self, initialisation: str) -> str:
        """Changes when a trial of this initialisation would come out differently."""
        text = hashlib.sha256(repr((self.task.name, self.train_subjects, self.test_subjects)).encode())
        arrays = [self.train.value_N, self.train.event_N, self.test.value_N, self.test.event_N]
        for array in (*arrays, *self.features.get(initialisation, ())):
            text.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        text.update(self.task.definition.encode())  # of the platform's tasks it is empty
        return text.hexdigest()

    @abstractmethod
    def predict(
        self, cell: Cell, rows: np.ndarray, training: Training, *, chosen: Chosen | None = None
    ) -> Prediction:
        """Fit on some training subjects, predict all test subjects.

        Args:
            cell: initialisation and seed.
            rows: the training subjects whose labels are used.
            training: settings of end-to-end training.
            chosen: hyper-parameters of a search, instead of the recipe's.

        Raises:
            StageError: the labels do not allow a fit, or data that it needs is missing.
        """


@dataclass(frozen=True)
class SubjectProblem(Problem):
    """A problem with one label a subject.

    Args:
        scans: subject -> its usable scans.
    """

    scans: Mapping[str, tuple[str, ...]]

    searchable: ClassVar[bool] = True

    def predict(
        self, cell: Cell, rows: np.ndarray, training: Training, *, chosen: Chosen | None = None
    ) -> Prediction:
        """Fit a head on frozen vectors, or train an encoder end to end."""
        targets = self.train.take(rows)
        if cell.initialisation in END_TO_END:
            pool = patch_pool(training, self.scans)
            model = end_to_end(
                self.task,
                training,
                initialisation=cell.initialisation,
                steps=training.steps(len(self.train)),
                seed=cell.seed,
                lr=chosen.lr if chosen else None,
                weight_decay=chosen.weight_decay if chosen else None,
            )
            subjects = [self.train_subjects[row] for row in rows]
            model.fit(pool, subjects, targets)
            details = {key: float(value) for key, value in asdict(chosen).items()} if chosen else {}
            if model.choice_ is not None:
                details |= {f"tuned_{key}": float(value) for key, value in asdict(model.choice_).items()}
            network = None
            if leaves_network(cell):
                pretrained = training.encoders.pretrained()
                network = network_of_subjects(model, pool, subjects, targets, pretrained=pretrained)
            table = self._table(cell, model.predict(pool, self.test_subjects))
            return Prediction(table, details, network=network)
        train_NP, test_NP = self.features[cell.initialisation]
        head = self.task.probe().fit(train_NP[rows], targets, seed=cell.seed)
        return Prediction(self._table(cell, self.task.clip(head.predict(test_NP))), head.details())

    def _table(self, cell: Cell, prediction_N: np.ndarray) -> pd.DataFrame:
        value_N, event_N = self.test.value_N.astype(float), self.test.event_N
        nothing_N = np.full(len(self.test), np.nan)
        return pd.DataFrame(
            {
                **asdict(cell),
                "subject_id": self.test_subjects,
                "scan_id": [self.scans[subject][0] for subject in self.test_subjects],
                "target": value_N,
                "prediction": prediction_N.astype(float),
                "time": nothing_N if event_N is None else value_N,
                "event": nothing_N if event_N is None else event_N.astype(float),
            }
        )
