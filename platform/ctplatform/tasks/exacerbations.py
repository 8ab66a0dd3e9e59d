"""Exacerbation history: whether there was any in the year before the scan, from the number of them."""

import numpy as np

from ctplatform.tasks.task import Task


def at_least_one(count_N: np.ndarray) -> np.ndarray:
    """A count as any or none."""
    return count_N >= 1


TASK = Task(
    name="exacerbations",
    title="At least one exacerbation before the scan",
    kind="binary",
    columns=("exacerbations",),
    metrics=("auroc", "auprc", "brier"),
    valid=(0, np.inf),
    derive=at_least_one,
)
