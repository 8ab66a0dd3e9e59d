"""The tasks by name. A new task is a file of this folder with a `TASK`, and its name in `NAMES`."""

from __future__ import annotations

import importlib

from ctplatform.errors import ConfigError
from ctplatform.tasks.task import Task

NAMES = (
    "emphysema_extent",
    "gold_stage",
    "survival",
    "fev1pp",
    "fev1_fvc",
    "visual_emphysema",
    "mmrc",
    "exacerbations",
    "exacerbation_count",
    "future_exacerbations",
    "future_exacerbation_count",
    "emphysema",
    "emphysema_subtypes",
    "nodules",
    "lobes",
)


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in NAMES:
        raise ConfigError(f"there is no task {name!r}", f"Use some of {', '.join(NAMES)}", code="config")
    task: Task = importlib.import_module(f"ctplatform.tasks.{name}").TASK
    return task
