"""Visual emphysema score, 0 (none) to 5 (advanced destructive)."""

from ctplatform.tasks.task import Task

TASK = Task(
    name="visual_emphysema",
    title="Visual emphysema score, 0 to 5",
    kind="ordinal",
    columns=("visual_emphysema",),
    metrics=("exact", "within_one", "kappa"),
    valid=(0, 5),
)
