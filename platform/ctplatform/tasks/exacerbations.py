"""Whether there was any exacerbation, from the number of them."""

import numpy as np

from ctplatform.tasks.task import Task


def _any(count_N: np.ndarray) -> np.ndarray:
    return count_N >= 1


TASK = Task(
    name="exacerbations",
    title="At least one exacerbation",
    kind="binary",
    columns=("exacerbations",),
    metrics=("auroc", "auprc", "brier"),
    valid=(0, np.inf),
    derive=_any,
)
