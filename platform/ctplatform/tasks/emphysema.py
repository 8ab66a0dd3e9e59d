"""Emphysema detection: whether at least a twentieth of the lung is emphysema."""

import numpy as np

from ctplatform.tasks.task import Task

PRESENT = 0.05  # of the lung


def _present(extent_N: np.ndarray) -> np.ndarray:
    return extent_N >= PRESENT


TASK = Task(
    name="emphysema",
    title="Emphysema in at least 5% of the lung",
    kind="binary",
    columns=("emphysema_extent",),
    metrics=("auroc", "auprc", "brier"),
    valid=(0.0, 1.0),
    derive=_present,
)
