"""Number of exacerbations in the year after the scan."""

import numpy as np

from ctplatform.tasks.task import Task

TASK = Task(
    name="future_exacerbation_count",
    title="Exacerbations after the scan, number",
    kind="count",
    columns=("future_exacerbations",),
    metrics=("d2", "spearman", "mae"),
    valid=(0, np.inf),
)
