"""Dyspnoea on the modified MRC scale, 0 to 4."""

from ctplatform.tasks.task import Task

TASK = Task(
    name="mmrc",
    title="mMRC dyspnoea, 0 to 4",
    kind="ordinal",
    columns=("mmrc",),
    metrics=("exact", "within_one", "kappa"),
    valid=(0, 4),
)
