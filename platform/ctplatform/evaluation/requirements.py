"""What the sweep reads from outside of the workspace, labels and vectors, checked before anything runs."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING

from ctplatform.config.recipe import Recipe
from ctplatform.errors import ConfigError, StageError
from ctplatform.inference.external import read_external
from ctplatform.inference.own_encoder import own_encoder
from ctplatform.tasks.registry import get_task

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def check_requirements(recipe: Recipe, cohort: pd.DataFrame) -> None:
    """Whether the recipe's tasks exist, the cohort has the columns of its own ones, and its vectors can be read.

    A task of the platform whose column the cohort lacks is skipped later, with a message: its name may come with a
    recipe that was written for other labels. A task of one's own is meant for this cohort.

    Raises:
        ConfigError: every problem found, one line each.
    """
    problems, remedies = [], []
    probe = recipe.pretrain.probe.task
    for name in dict.fromkeys((*recipe.sweep.tasks, *([probe] if probe else ()))):
        try:
            task = get_task(name, recipe.tasks)
        except ConfigError as error:
            problems.append(
                f"{'sweep.tasks' if name in recipe.sweep.tasks else 'pretrain.probe.task'}: {error.problem}"
            )
            remedies.append(error.remedy)
            continue
        if name not in recipe.tasks:
            continue
        for column in (recipe.sweep.columns.get(column, column) for column in task.columns):
            if column not in cohort:
                close = difflib.get_close_matches(column, list(map(str, cohort.columns)), n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                problems.append(f"tasks.{name}: the cohort has no column {column!r}{hint}")
                remedies.append("Add the column, join a table that has it with --labels, or correct its name")
            elif cohort[column].isna().all():
                problems.append(f"tasks.{name}: the cohort's column {column!r} is empty")
                remedies.append("Check the column's values")
    for name, path in recipe.sweep.external.items():
        try:
            ids, _ = read_external(path)
        except StageError as error:
            problems.append(f"sweep.external.{name}: {error.problem}")
            remedies.append(error.remedy)
            continue
        if set(ids).isdisjoint(cohort["scan_id"].astype(str)):
            problems.append(f"sweep.external.{name}: {path} has vectors of none of the cohort's scans")
            remedies.append("Use the scan_ids of the cohort table")
    for name, target in recipe.sweep.encoders.items():
        try:
            own_encoder(target)
        except StageError as error:
            problems.append(f"sweep.encoders.{name}: {error.problem}")
            remedies.append(error.remedy)
    for name in recipe.tasks:
        if name not in recipe.sweep.tasks:
            logger.warning("tasks.%s is not among sweep.tasks, and is not evaluated", name)
    if problems:
        lines = problems[0] if len(problems) == 1 else "\n  ".join(["the sweep cannot be run:", *problems])
        raise ConfigError(lines, ". ".join(dict.fromkeys(remedies)), code="config")
