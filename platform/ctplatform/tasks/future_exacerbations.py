"""Future exacerbations: whether there is any in the year after the scan, from the number of them."""

import numpy as np

from ctplatform.tasks.exacerbations import at_least_one
from ctplatform.tasks.task import Task

TASK = Task(
    name="future_exacerbations",
    title="At least one exacerbation after the scan",
    kind="binary",
    columns=("future_exacerbations",),
    metrics=("auroc", "auprc", "brier"),
    valid=(0, np.inf),
    derive=at_least_one,
)
