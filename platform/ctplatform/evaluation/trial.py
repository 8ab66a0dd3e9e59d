"""One trial of the sweep: fit on a part of the labels, predict the test subjects, commit the predictions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ctplatform.evaluation.cells import (
    Cell,
    Chosen,
    Problem,
    Shared,
    Trial,
    label_subset,
    read_chosen,
    training_steps,
    write_trial,
)
from ctplatform.evaluation.early_stopping import Choice
from ctplatform.evaluation.initialisations import END_TO_END
from ctplatform.evaluation.models import end_to_end, patch_pool
from ctplatform.tasks import get_task
from ctplatform.tasks.label_map import VolumeTask

if TYPE_CHECKING:
    pass


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
        from ctplatform.evaluation.dense.predictions import predictions
        from ctplatform.evaluation.dense.problem import VolumeProblem

        assert isinstance(problem, VolumeProblem)
        table = predictions(shared, cell, problem, rows)
        trial = Trial(cell, len(rows), len(problem.test), time.perf_counter() - start, tuple(notes), table)
        write_trial(shared, trial)
        return trial
    if cell.initialisation in END_TO_END:
        chosen = read_chosen(shared, cell) if shared.searches(cell) else None
        prediction, choice = _end_to_end(shared, cell, problem, rows, chosen)
        if shared.searches(cell) and chosen is None:
            notes.append(
                f"{cell.task}: with {cell.fraction:.0%} of the labels no hyper-parameters were searched, for want of "
                "validation subjects or of a configuration that ended well; the recipe's were used"
            )
        details = {} if chosen is None else {key: float(value) for key, value in asdict(chosen).items()}
        if choice is not None:
            details |= {f"tuned_{key}": float(value) for key, value in asdict(choice).items()}
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


def _end_to_end(
    shared: Shared, cell: Cell, problem: Problem, rows: np.ndarray, chosen: Chosen | None
) -> tuple[np.ndarray, Choice | None]:
    pool = patch_pool(shared)
    values = {"lr": chosen.lr, "weight_decay": chosen.weight_decay} if chosen else {}
    model = end_to_end(shared, cell, steps=training_steps(shared.scratch, len(problem.train)), **values)
    model.fit(pool, [problem.train_subjects[row] for row in rows], problem.train.take(rows))
    return model.predict(pool, problem.test_subjects), model.choice_


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
