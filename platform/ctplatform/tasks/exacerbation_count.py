"""Number of exacerbations in the year before the scan."""

import numpy as np

from ctplatform.tasks.task import Task

TASK = Task(
    name="exacerbation_count",
    title="Exacerbations before the scan, number",
    kind="count",
    columns=("exacerbations",),
    metrics=("d2", "spearman", "mae"),
    valid=(0, np.inf),
)
