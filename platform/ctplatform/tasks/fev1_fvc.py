"""FEV1/FVC, a ratio between 0 and 1."""

from ctplatform.tasks.task import Task

TASK = Task(
    name="fev1_fvc",
    title="FEV1/FVC",
    kind="continuous",
    columns=("fev1_fvc",),
    metrics=("r2", "spearman", "mae"),
    valid=(0.0, 1.0),
)
