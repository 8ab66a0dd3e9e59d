"""The cohort against the recipe: labels, their units, the split's column, and whether the scans are there."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ctplatform.cohort.table import similar_subjects
from ctplatform.errors import ConfigError, StageError
from ctplatform.evaluation.requirements import check_requirements
from ctplatform.pipeline.checks.finding import Finding, of_error
from ctplatform.pipeline.checks.recipe import task_of
from ctplatform.tasks.label_map import VolumeTask

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.config.recipe import Recipe
    from ctplatform.tasks.task import Task

#: Paths that are looked up; of a larger cohort as many, spread over it.
MAX_PATHS = 10_000
#: Share of a label's values above 1 from which a column of shares is taken for percent.
PERCENT_SHARE = 0.1
_SHOWN = 5
_THREADS = 16


def cohort_findings(
    cohort: pd.DataFrame, recipe: Recipe, stages: Collection[str], *, local: bool = True
) -> list[Finding]:
    """What can be seen of a scan table without reading a scan.

    Args:
        cohort: as `read_cohort` returns it; empty where none was given.
        recipe: of the run.
        stages: those that will run.
        local: whether scans are read on this machine, so that its paths count.
    """
    found = _selection(cohort, recipe, stages)
    if cohort.empty:
        if "atlas" in stages and recipe.atlas.source == "build":
            found.append(
                Finding(
                    "error",
                    "atlas",
                    "an atlas is built from a cohort, and none was given",
                    "Give --cohort, or a finished atlas with --atlas",
                )
            )
        return found
    if local and {"atlas", "prepare"} & set(stages):
        found += _paths(cohort)
    found += [Finding("warning", "subject_id", line) for line in similar_subjects(cohort["subject_id"])]
    found += _split(cohort, recipe, stages)
    if "sweep" in stages:
        found += _labels(cohort, recipe, alone=set(stages) <= {"sweep"})
    return found


def _paths(cohort: pd.DataFrame) -> list[Finding]:
    step = max(1, -(-len(cohort) // MAX_PATHS))
    rows = [
        (str(scan), str(path))
        for scan, path in zip(cohort["scan_id"].iloc[::step], cohort["path"].iloc[::step], strict=True)
        if "://" not in str(path)
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        there = list(pool.map(lambda row: os.path.exists(row[1]), rows))
    missing = [scan for (scan, _), exists in zip(rows, there, strict=True) if not exists]
    if not missing:
        return []
    shown = ", ".join(missing[:_SHOWN]) + (
        f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    )
    every = len(missing) == len(rows) == len(cohort)
    return [
        Finding(
            "error" if every else "warning",
            "path",
            f"nothing is at the path of {len(missing)} of {len(rows)} scans ({shown})",
            "Correct the column path, or mount the storage"
            + ("" if every else "; these scans will fail, others not"),
        )
    ]


def _split(cohort: pd.DataFrame, recipe: Recipe, stages: Collection[str]) -> list[Finding]:
    from ctplatform.dataset.ledger import SCHEMA

    column = recipe.split.stratify
    if "split" not in stages or column is None or column in cohort or column in SCHEMA.names:
        return []
    return [
        Finding(
            "error",
            "split.stratify",
            f"the cohort has no column {column!r}",
            f"Name one of its columns: {', '.join(map(str, cohort.columns))}",
        )
    ]


def _selection(cohort: pd.DataFrame, recipe: Recipe, stages: Collection[str]) -> list[Finding]:
    """Labels of the probe, where it selects the encoder that is published."""
    config = recipe.pretrain
    if "pretrain" not in stages or config.best_by != "probe":
        return []
    names = (config.probe.task,) if config.probe.task else recipe.sweep.tasks
    for name in names:
        try:
            task = task_of(recipe, name)
            if isinstance(task, VolumeTask):
                continue
            task.labels(cohort, recipe.sweep.columns)
        except (ConfigError, StageError):  # an unknown task is a finding of the recipe
            continue
        return []
    return [
        Finding(
            "error",
            "pretrain.best_by",
            f"probe needs labels of {' or '.join(names) or 'a task'}, and the cohort has none",
            "Add them to the scan table, name your column under sweep.columns, or leave pretrain.best_by out",
        )
    ]


def _labels(cohort: pd.DataFrame, recipe: Recipe, *, alone: bool) -> list[Finding]:
    found: list[Finding] = []
    columns = recipe.sweep.columns
    for name, column in columns.items():
        if column not in cohort:
            found.append(
                Finding(
                    "error",
                    f"sweep.columns.{name}",
                    f"the cohort has no column {column!r}",
                    _near(column, cohort),
                )
            )
    usable, known = 0, True
    for name in recipe.sweep.tasks:
        try:
            task = task_of(recipe, name)
        except ConfigError:  # a finding of the recipe
            known = False
            continue
        missing = [columns.get(name, name) for name in task.columns if columns.get(name, name) not in cohort]
        if missing:
            found.append(
                Finding(
                    "warning",
                    f"task {task.name}",
                    f"is left out: the cohort has no column {', '.join(map(repr, missing))}",
                    "Add it, or name yours under sweep.columns",
                )
            )
            continue
        percent = _percent(cohort, task, columns.get(task.columns[0], task.columns[0]))
        found += percent
        try:
            if isinstance(task, VolumeTask):
                task.maps(cohort, columns)
            else:
                notes = () if percent else task.labels(cohort, columns).notes
                found += [Finding("warning", f"task {task.name}", note.partition(": ")[2]) for note in notes]
            usable += 1
        except StageError as error:
            found.append(Finding("warning", f"task {task.name}", error.problem, error.remedy))
    if (recipe.tasks or recipe.sweep.external or recipe.sweep.encoders) and known:
        try:
            check_requirements(recipe, cohort)
        except ConfigError as error:
            found.append(of_error("sweep", error))
    if recipe.sweep.tasks and not usable:
        found.append(
            Finding(
                "error" if alone else "warning",
                "labels",
                "the cohort has labels of none of the tasks: nothing can be evaluated",
                "Add label columns to the scan table, or name yours under sweep.columns",
            )
        )
    return found


def _percent(cohort: pd.DataFrame, task: Task, column: str) -> list[Finding]:
    """A column of shares that holds percent: values up to 1 would be taken as they are, the others left out."""
    import pandas as pd

    if task.valid != (0.0, 1.0):
        return []
    numbers: Any = pd.to_numeric(cohort[column], errors="coerce").dropna()
    above = int((numbers > 1).sum())
    if above == 0 or above < PERCENT_SHARE * len(numbers) or numbers.max() > 100 or numbers.min() < 0:
        return []
    return [
        Finding(
            "error",
            f"column {column}",
            f"{above} of {len(numbers)} values are above 1, up to {numbers.max():g}: percent, where {task.name} "
            "takes shares from 0 to 1",
            "Divide the column by 100",
        )
    ]


def _near(column: str, cohort: pd.DataFrame) -> str:
    import difflib

    names = [str(name) for name in cohort.columns]
    close = [name for name in names if column in name][:1] or difflib.get_close_matches(column, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"It has {', '.join(map(str, cohort.columns))}"
