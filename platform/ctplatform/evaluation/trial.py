"""One trial of the sweep: fit on a part of the labels, predict the test subjects, commit the predictions."""

from __future__ import annotations

import time

from ctplatform.evaluation.cells import Cell, Trial, label_subset
from ctplatform.evaluation.context import SweepContext
from ctplatform.evaluation.slices import write_slices
from ctplatform.evaluation.trained_network import write_network


def evaluate(context: SweepContext, cell: Cell) -> Trial:
    """Fit, predict, commit.

    Raises:
        StageError: the labels do not allow a fit, or data that it needs is missing.
    """
    start = time.perf_counter()
    problem, notes = context.problems[cell.task], []
    rows = label_subset(problem.task, problem.train, fraction=cell.fraction, seed=cell.seed)
    if len(rows) > round(cell.fraction * len(problem.train)):
        notes.append(
            f"{cell.task}: {cell.fraction:.0%} of {len(problem.train)} labelled training subjects is too few to fit; "
            f"{len(rows)} were used"
        )
    chosen = context.read_chosen(cell) if context.searches(cell) else None
    if context.searches(cell) and chosen is None:
        notes.append(
            f"{cell.task}: with {cell.fraction:.0%} of the labels no hyper-parameters were searched, for want of "
            "validation subjects or of a configuration that ended well; the recipe's were used"
        )
    prediction = problem.predict(cell, rows, context.training, chosen=chosen)
    if prediction.slices:
        write_slices(context.workspace, context.run, cell, prediction.slices)
    if prediction.network:
        fit = context.fingerprint(cell)
        write_network(context.workspace, context.run, cell, prediction.network, fit=fit)
    trial = Trial(
        cell,
        len(rows),
        len(problem.test),
        time.perf_counter() - start,
        tuple(notes),
        prediction.table,
        prediction.details,
    )
    context.write_trial(trial)
    return trial
