"""Names in a recipe's values, and the optional packages and files that its settings need."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.errors import ConfigError
from ctplatform.pipeline.checks.finding import Finding
from ctplatform.tasks.label_map import VolumeTask
from ctplatform.tasks.registry import NAMES, get_task

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.tasks.task import Task


def recipe_findings(recipe: Recipe, stages: Collection[str]) -> list[Finding]:
    """Unknown names of tasks and label columns, missing packages and weights, of the stages that will run."""
    return [*_tasks(recipe, stages), *_columns(recipe, stages), *_packages(recipe, stages)]


def _tasks(recipe: Recipe, stages: Collection[str]) -> list[Finding]:
    named: list[tuple[str, str]] = []
    if "sweep" in stages:
        named += [("sweep.tasks", name) for name in recipe.sweep.tasks]
        named += [("sweep.classes", name) for name in recipe.sweep.classes]
    if "pretrain" in stages and recipe.pretrain.probe.task:
        named.append(("pretrain.probe.task", recipe.pretrain.probe.task))
    found = []
    for where, name in dict.fromkeys(named):
        try:
            task = task_of(recipe, name)
            if where == "pretrain.probe.task" and isinstance(task, VolumeTask):
                found.append(
                    Finding(
                        "error", where, f"{name} has label maps", "Name a task with a label of each subject"
                    )
                )
        except ConfigError as error:
            close = difflib.get_close_matches(name, NAMES, n=1)
            found.append(
                Finding(
                    "error", where, error.problem, f"Did you mean {close[0]!r}?" if close else error.remedy
                )
            )
    return found


def task_of(recipe: Recipe, name: str) -> Task:
    """A task that the recipe names.

    Raises:
        ConfigError: there is none.
    """
    return get_task(name, recipe.tasks)


def _columns(recipe: Recipe, stages: Collection[str]) -> list[Finding]:
    if not recipe.sweep.columns or not {"sweep", "pretrain"} & set(stages):
        return []
    known = {column for name in NAMES for column in get_task(name).columns}
    for name in recipe.sweep.tasks:
        with contextlib.suppress(ConfigError):
            known.update(task_of(recipe, name).columns)
    return [
        Finding("error", "sweep.columns", f"no task has a label {name!r}", _nearest(name, sorted(known)))
        for name in recipe.sweep.columns
        if name not in known
    ]


def _packages(recipe: Recipe, stages: Collection[str]) -> list[Finding]:
    found = []
    lungs = recipe.prepare.lungs
    masked = "prepare" in stages or ("atlas" in stages and recipe.atlas.source == "build")
    if masked and lungs.segmenter == "totalsegmentator":
        found += _package("totalsegmentator", "prepare.lungs.segmenter=totalsegmentator")
    if masked and lungs.segmenter == "lungmask":
        found += _package("lungmask", "prepare.lungs.segmenter=lungmask")
        if lungs.weights and "://" not in lungs.weights and not Path(lungs.weights).expanduser().is_file():
            found.append(
                Finding(
                    "error", "prepare.lungs.weights", f"there is no file {lungs.weights}", "Correct the path"
                )
            )
    if recipe.watch.mlflow and ("pretrain" in stages or "sweep" in stages):
        found += _package("mlflow", "watch.mlflow")
    if recipe.sweep.search.configurations and recipe.sweep.search.algorithm == "optuna" and "sweep" in stages:
        found += _package("optuna", "sweep.search.algorithm=optuna")
    return found


def _package(name: str, where: str) -> list[Finding]:
    if importlib.util.find_spec(name):
        return []
    return [Finding("error", where, f"{name} is not installed", f"Install it: pip install 'drasclr[{name}]'")]


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Use some of {', '.join(known)}"
