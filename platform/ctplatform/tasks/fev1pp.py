"""FEV1, per cent of predicted."""

from ctplatform.tasks.task import Task

TASK = Task(
    name="fev1pp",
    title="FEV1, % of predicted",
    kind="continuous",
    columns=("fev1pp",),
    metrics=("r2", "spearman", "mae"),
    valid=(0.0, 250.0),
)
