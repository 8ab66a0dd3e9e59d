"""The tasks by name: those of the recipe, the platform's, and those of installed packages.

The platform's are `definitions/<name>.yaml`, written as in a recipe. A package offers a task under the entry point
group `drasclr.tasks`: the entry point's name is the task's, and it leads to a `Task` or `VolumeTask`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from ctplatform.errors import ConfigError
from ctplatform.tasks.definition import task_from
from ctplatform.tasks.task import Task

GROUP = "drasclr.tasks"
DEFINITIONS = Path(__file__).parent / "definitions"
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
"""The platform's tasks."""


class Definition(Protocol):
    """An entry of the recipe's section `tasks`."""

    def model_dump(self) -> dict[str, Any]:
        """Its keys and values."""


def get_task(name: str, own: Mapping[str, Definition] | None = None) -> Task:
    """The task of that name.

    Args:
        name: as in `sweep.tasks`.
        own: the recipe's section `tasks`.

    Raises:
        ConfigError: there is none, two have the name, or an entry point cannot be loaded.
    """
    own = own or {}
    installed = _installed()
    if name in own:
        if name in NAMES or name in installed:
            raise ConfigError(
                f"tasks.{name}: there is a task of this name already",
                "Give yours another name",
                code="config",
            )
        return task_from(name, own[name].model_dump())
    if name in NAMES:
        return _of_platform(name)
    if name in installed:
        return _loaded(installed[name])
    known = [*own, *NAMES, *installed]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}? There are" if close else "Use some of"
    raise ConfigError(
        f"there is no task {name!r}", f"{hint} {', '.join(known)}, or define it under `tasks`", code="config"
    )


@cache
def _of_platform(name: str) -> Task:
    import yaml

    values = yaml.safe_load((DEFINITIONS / f"{name}.yaml").read_text(encoding="utf-8"))
    return task_from(name, values, own=False)


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _loaded(point: EntryPoint) -> Task:
    try:
        task = point.load()
    except Exception as error:  # whatever the package's import raises
        raise ConfigError(
            f"the task {point.name!r} of {point.value} cannot be loaded: {error}",
            "Correct the package that offers it",
            code="config",
        ) from error
    if not isinstance(task, Task) or task.name != point.name:
        raise ConfigError(
            f"the entry point {point.name} = {point.value} leads to no Task of that name",
            "Let it lead to a ctplatform.tasks.Task whose name is the entry point's",
            code="config",
        )
    return task
