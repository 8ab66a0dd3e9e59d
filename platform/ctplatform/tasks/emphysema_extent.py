"""Emphysema extent: the fraction of the lung that is emphysema, by a reader, a density mask or a phantom's truth."""

from ctplatform.tasks.task import Task

TASK = Task(
    name="emphysema_extent",
    title="Emphysema extent, fraction of the lung",
    kind="continuous",
    columns=("emphysema_extent",),
    metrics=("spearman", "r2", "mae"),
    valid=(0.0, 1.0),
)
