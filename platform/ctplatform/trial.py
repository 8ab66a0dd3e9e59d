"""One trial of the sweep: fit on a part of the labels, predict the test subjects, commit the predictions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.config import EncoderConfig, FinetuneConfig, ScratchConfig, SearchConfig, config_hash
from ctplatform.errors import StageError
from ctplatform.splits import stratified_order
from ctplatform.statistics import Targets
from ctplatform.tasks import Task, get_task
from ctplatform.tasks.volume import VolumeTask
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    from ctplatform.finetune import EndToEnd, PatchPool
    from drasclr.encoder import Encoder

FOLDER, TRIALS, SEARCHES = "evaluation", "trials", "searches"
FORMAT_VERSION = 1  # raise it when a change makes older trials incomparable
METADATA_KEY = b"drasclr.trial"
SCRATCH, FINETUNE = "scratch", "finetune"
END_TO_END = (SCRATCH, FINETUNE)  # initialisations of which all weights are trained on the labels


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


def run_trial(shared: Shared, cell: Cell) -> Trial:
    """Fit, predict, commit.

    Raises:
        StageError: the labels do not allow a fit.
    """
    start = time.perf_counter()
    task, problem = get_task(cell.task), shared.problems[cell.task]
    rows = label_subset(task, problem.train, fraction=cell.fraction, seed=cell.seed)
    targets, notes = problem.train.take(rows), []
    if len(rows) > round(cell.fraction * len(problem.train)):
        notes.append(
            f"{cell.task}: {cell.fraction:.0%} of {len(problem.train)} labelled training subjects is too few to fit; "
            f"{len(rows)} were used"
        )
    if isinstance(task, VolumeTask):
        from ctplatform.dense.problem import VolumeProblem
        from ctplatform.dense.trial import predictions

        assert isinstance(problem, VolumeProblem)
        table = predictions(shared, cell, problem, rows)
        trial = Trial(cell, len(rows), len(problem.test), time.perf_counter() - start, tuple(notes), table)
        write_trial(shared, trial)
        return trial
    if cell.initialisation in END_TO_END:
        chosen = read_chosen(shared, cell) if shared.searches(cell) else None
        prediction = _end_to_end(shared, cell, problem, rows, chosen)
        if shared.searches(cell) and chosen is None:
            notes.append(
                f"{cell.task}: with {cell.fraction:.0%} of the labels no hyper-parameters were searched, for want of "
                "validation subjects or of a configuration that ended well; the recipe's were used"
            )
        details = {} if chosen is None else {key: float(value) for key, value in asdict(chosen).items()}
    else:
        train_NP, test_NP = problem.features[cell.initialisation]
        head = task.probe().fit(train_NP[rows], targets, seed=cell.seed)
        prediction = task.clip(head.predict(test_NP))
        details = head.details()
    seconds = time.perf_counter() - start
    table = _predictions(cell, problem, shared.scans, prediction)
    trial = Trial(cell, len(rows), len(problem.test), seconds, tuple(notes), table, details)
    write_trial(shared, trial)
    return trial


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
    shared.workspace.write_table(table, FOLDER, shared.run, TRIALS, f"{trial.cell.name}.parquet")


def read_trial(shared: Shared, cell: Cell) -> Trial | None:
    """The committed trial of a cell; None if there is none, or one of other data or settings."""
    path = (FOLDER, shared.run, TRIALS, f"{cell.name}.parquet")
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
    path = (FOLDER, shared.run, SEARCHES, f"{cell.name}.json")
    if not shared.workspace.exists(*path):
        return None
    record = shared.workspace.read_json(*path)
    return Chosen(**record["chosen"]) if record["fingerprint"] == shared.fingerprint(cell) else None


def _end_to_end(
    shared: Shared, cell: Cell, problem: Problem, rows: np.ndarray, chosen: Chosen | None
) -> np.ndarray:
    pool = patch_pool(shared)
    values = {"lr": chosen.lr, "weight_decay": chosen.weight_decay} if chosen else {}
    model = end_to_end(shared, cell, steps=training_steps(shared.scratch, len(problem.train)), **values)
    model.fit(pool, [problem.train_subjects[row] for row in rows], problem.train.take(rows))
    return model.predict(pool, problem.test_subjects)


def training_steps(config: ScratchConfig, subjects: int) -> int:
    """Optimiser steps of every label fraction: passes over all training subjects."""
    steps = config.epochs * -(-subjects // config.subjects_per_batch)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def patch_pool(shared: Shared) -> PatchPool:
    """The patches that end-to-end training reads; what a process has read, it keeps."""
    import torch

    from ctplatform.atlas import read_atlas
    from ctplatform.finetune import PatchPool

    torch.set_num_threads(shared.threads)
    return PatchPool(
        shared.workspace,
        read_atlas(shared.workspace).coordinates_N3,
        scans=shared.scans,
        size=max(shared.scratch.pool, shared.scratch.locations),
        hu_window=shared.hu_window,
        device=shared.device,
    )


def end_to_end(
    shared: Shared, cell: Cell, *, steps: int, lr: float | None = None, weight_decay: float | None = None
) -> EndToEnd:
    """The untrained model of a cell; `lr` and `weight_decay` instead of the recipe's."""
    from ctplatform.finetune import EndToEnd

    pretrained = None
    if cell.initialisation == FINETUNE:
        pretrained = pretrained_of(shared)
        lr = shared.finetune.lr if lr is None else lr
        weight_decay = shared.finetune.weight_decay if weight_decay is None else weight_decay
    return EndToEnd(
        get_task(cell.task),
        encoder=shared.encoder,
        config=shared.scratch,
        steps=steps,
        seed=cell.seed,
        pretrained=pretrained,
        lr=lr,
        weight_decay=weight_decay,
    )


def pretrained_of(shared: Shared) -> Encoder:
    """The run's encoder; whoever trains it copies it first."""
    return _pretrained(shared.workspace, shared.run, shared.hu_window, shared.weights)


@lru_cache(maxsize=1)
def _pretrained(workspace: Workspace, run: str, hu_window: tuple[int, int], digest: str) -> Encoder:
    """Read once a worker process; `digest` changes with the weights."""
    from ctplatform.embed import load_encoder

    return load_encoder(workspace, run, hu_window=hu_window)


def _predictions(
    cell: Cell, problem: Problem, scans: Mapping[str, tuple[str, ...]], prediction: np.ndarray
) -> pd.DataFrame:
    test = problem.test
    survival = test.event_N is not None
    nothing = np.full(len(test), np.nan)
    return pd.DataFrame(
        {
            **asdict(cell),
            "subject_id": problem.test_subjects,
            "scan_id": [scans[subject][0] for subject in problem.test_subjects],
            "target": test.value_N.astype(float),
            "prediction": prediction.astype(float),
            "time": test.value_N.astype(float) if survival else nothing,
            "event": test.event_N.astype(float) if test.event_N is not None else nothing,
        }
    )
