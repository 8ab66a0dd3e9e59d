"""TODO."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.config.digest import config_hash
from ctplatform.config.evaluation import FinetuneConfig, ScratchConfig, SearchConfig
from ctplatform.config.training import EncoderConfig
from ctplatform.errors import StageError
from ctplatform.evaluation.initialisations import END_TO_END, FINETUNE
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import stratified_order
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import Task, get_task
from ctplatform.tasks.label_map import VolumeTask

FORMAT_VERSION = 1  # raise it when a change makes older trials incomparable
METADATA_KEY = b"drasclr.trial"


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    task: str
    initialisation: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.task}-{self.initialisation}-{self.fraction:g}-{self.seed}"


@dataclass(frozen=True)
class Problem:
    """A task's labelled subjects on both sides, and the frozen vectors of each initialisation, rows alike."""

    task: str
    train_subjects: tuple[str, ...]
    train: Targets
    test_subjects: tuple[str, ...]
    test: Targets
    features: Mapping[str, tuple[np.ndarray, np.ndarray]]  # initialisation -> (train, test), [N, P]

    def digest(self, initialisation: str) -> str:
        """Changes when a trial of this initialisation would come out differently."""
        text = hashlib.sha256(repr((self.task, self.train_subjects, self.test_subjects)).encode())
        arrays = [self.train.value_N, self.train.event_N, self.test.value_N, self.test.event_N]
        for array in (*arrays, *self.features.get(initialisation, ())):
            text.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return text.hexdigest()


@dataclass(frozen=True)
class Shared:
    """What all trials have in common; sent to each worker once."""

    workspace: Workspace
    run: str
    problems: Mapping[str, Problem]
    scans: Mapping[str, tuple[str, ...]]  # subject -> its usable scans
    scratch: ScratchConfig
    finetune: FinetuneConfig
    encoder: EncoderConfig
    hu_window: tuple[int, int]
    images: str  # digest of the usable scans' contents and the atlas
    weights: str = ""  # digest of the run's weights, where they are fine-tuned
    device: str = "cpu"
    threads: int = 1
    search: SearchConfig = field(default_factory=SearchConfig)

    def searches(self, cell: Cell) -> bool:
        """Whether the cell's learning rate and weight decay are searched; on label maps they never are."""
        if isinstance(get_task(cell.task), VolumeTask):
            return False
        return self.search.configurations > 0 and cell.initialisation in END_TO_END

    def fingerprint(self, cell: Cell) -> str:
        """Names everything that a cell's result depends on: a committed trial with another one is stale."""
        own: list[Any] = [FORMAT_VERSION, asdict(cell), self.problems[cell.task].digest(cell.initialisation)]
        if cell.initialisation in END_TO_END:
            own += [self.scratch.model_dump(), self.encoder.model_dump(), list(self.hu_window), self.images]
        if cell.initialisation == FINETUNE:
            own += [self.finetune.model_dump(), self.weights]
        if self.searches(cell):
            own.append(self.search.model_dump())
        return config_hash({"cell": own})


@dataclass(frozen=True)
class Chosen:
    """What the search in a cell has chosen; of so many configurations, so many stopped early, in so many seconds."""

    lr: float
    weight_decay: float
    configurations: int
    stopped: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A committed trial; `details` are the hyper-parameters that were chosen, and checks of the fit."""

    cell: Cell
    n_train: int
    n_test: int
    seconds: float
    notes: tuple[str, ...]
    predictions: pd.DataFrame
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> np.ndarray:
        """What metrics score: a prediction a test subject, [N], or on label maps some numbers a class, [N, C, K]."""
        if "numbers" not in self.predictions:
            return self.predictions["prediction"].to_numpy()
        numbers = np.stack(self.predictions["numbers"].to_list()).astype(float)
        return numbers.reshape(self.n_test, -1, numbers.shape[1])


def label_subset(task: Task, train: Targets, *, fraction: float, seed: int) -> np.ndarray:
    """Rows of the training subjects whose labels are used, sorted.

    Subsets of one seed are nested and stratified. Where the fraction is too little to fit anything, it is raised to
    the least that a head can be fitted on.

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


def write_trial(shared: Shared, trial: Trial) -> None:
    """Commit a trial's predictions; its file is what says that it is done."""
    record = {
        "fingerprint": shared.fingerprint(trial.cell),
        "n_train": trial.n_train,
        "n_test": trial.n_test,
        "seconds": trial.seconds,
        "notes": list(trial.notes),
        "details": dict(trial.details),
    }
    table = pa.Table.from_pandas(trial.predictions, preserve_index=False)
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(record)})
    shared.workspace.write_table(table, *layout.trial(shared.run, trial.cell.name))


def read_trial(shared: Shared, cell: Cell) -> Trial | None:
    """The committed trial of a cell; None if there is none, or one of other data or settings."""
    path = layout.trial(shared.run, cell.name)
    if not shared.workspace.exists(*path):
        return None
    table = pq.read_table(pa.BufferReader(shared.workspace.read_bytes(*path)))
    record = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if record.get("fingerprint") != shared.fingerprint(cell):
        return None
    return Trial(
        cell,
        record["n_train"],
        record["n_test"],
        record["seconds"],
        tuple(record["notes"]),
        table.to_pandas(),
        record.get("details", {}),
    )


def read_chosen(shared: Shared, cell: Cell) -> Chosen | None:
    """What the search in a cell has chosen; None if there was none, or one with other data or settings."""
    path = layout.search(shared.run, cell.name)
    if not shared.workspace.exists(*path):
        return None
    record = shared.workspace.read_json(*path)
    return Chosen(**record["chosen"]) if record["fingerprint"] == shared.fingerprint(cell) else None


def training_steps(config: ScratchConfig, subjects: int) -> int:
    """Optimiser steps of every label fraction: passes over all training subjects."""
    steps = config.epochs * -(-subjects // config.subjects_per_batch)
    return steps if config.max_steps is None else min(steps, config.max_steps)
