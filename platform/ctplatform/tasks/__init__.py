"""Downstream tasks, one a file: their labels, how these are checked, and the heads that predict them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.tasks.heads import Cumulative, Poisson, Probe, Ridge
    from ctplatform.tasks.label_map import VolumeTask
    from ctplatform.tasks.registry import NAMES, get_task
    from ctplatform.tasks.task import Labels, Task

__all__ = ["NAMES", "Cumulative", "Labels", "Poisson", "Probe", "Ridge", "Task", "VolumeTask", "get_task"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "NAMES": "registry",
        "Cumulative": "heads",
        "Labels": "task",
        "Poisson": "heads",
        "Probe": "heads",
        "Ridge": "heads",
        "Task": "task",
        "VolumeTask": "label_map",
        "get_task": "registry",
    },
)
