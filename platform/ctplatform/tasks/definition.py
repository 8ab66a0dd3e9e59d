"""Tasks from plain values, as they stand in a recipe's section `tasks` and in `definitions/`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ctplatform.metrics.overlap import of_kind
from ctplatform.tasks.label_map import VolumeTask
from ctplatform.tasks.task import Kind, Task

MINIMUM = {"survival": 6, "label_map": 2}
"""Labelled training subjects that a fit needs, where it is not the four of the other kinds."""
FALSE_ML = "false_ml"  # of structures that many scans lack: named by the tasks that report it


def task_from(name: str, values: Mapping[str, Any], *, own: bool = True) -> Task:
    """The task that plain values describe.

    Args:
        name: of the task.
        values: keys and meanings are those of `ctplatform.config.tasks.TaskConfig`; absent ones have their default.
        own: a user's task, whose results depend on all of its definition.
    """
    kind, classes = values["kind"], dict(values.get("classes") or {})
    whole_lung = bool(values.get("whole_lung"))
    metrics = tuple(values.get("metrics") or ())
    if not metrics:
        metrics = tuple(m for m in of_kind(kind, classes, whole_lung=whole_lung) if m != FALSE_ML)
    column, event = values["column"], values.get("event")
    common: dict[str, Any] = {
        "name": name,
        "title": values.get("title") or name.replace("_", " "),
        "columns": (column, event) if event else (column,),
        "metrics": metrics,
        "minimum": values.get("minimum") or MINIMUM.get(kind, 4),
        "unit": values.get("unit") or "",
        "definition": _digest(values) if own else "",
    }
    if kind == "label_map":
        return VolumeTask(**common, kind="regions" if whole_lung else "structures", classes=classes)
    of_subjects: Kind = kind
    return Task(
        **common,
        kind=of_subjects,
        valid=_valid(kind, values.get("valid") or (None, None)),
        values=dict(values.get("values") or {}),
        at_least=values.get("at_least"),
    )


def _valid(kind: str, given: tuple[float | None, float | None]) -> tuple[float, float]:
    """Times are positive and counts not negative, whatever is given."""
    lowest = {"survival": 1e-9, "count": 0.0}.get(kind, -np.inf)
    low, high = given
    return max(lowest, -np.inf if low is None else float(low)), np.inf if high is None else float(high)


def _digest(values: Mapping[str, Any]) -> str:
    """Of what results depend on: neither what a task is called nor how it is scored."""
    used = {key: value for key, value in values.items() if key not in ("title", "unit", "metrics")}
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:12]
