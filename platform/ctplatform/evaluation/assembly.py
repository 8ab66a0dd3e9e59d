"""Labels, representations and split of a workspace, joined into the problems of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.dataset.duplicates import near_duplicates
from ctplatform.dataset.splits import Split, leak_warnings, read_split
from ctplatform.errors import StageError
from ctplatform.evaluation.context import SweepContext
from ctplatform.evaluation.initialisations import END_TO_END, FINETUNE
from ctplatform.evaluation.models import Encoders, Training
from ctplatform.evaluation.problems import Problem, SubjectProblem
from ctplatform.inference.encoders import weights_digest
from ctplatform.inference.external import read_external
from ctplatform.inference.representations import Representation, read_representation, representation_of
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.label_map import VolumeTask
from ctplatform.tasks.registry import get_task
from ctplatform.tasks.task import Task
from ctplatform.training.runs import ablation_runs

MIN_TEST = 3  # subjects: with fewer no score means anything
Progress = Callable[..., None]


def assemble(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    run: str,
    on_progress: Progress | None = None,
) -> tuple[SweepContext, list[str]]:
    """Join labels, representations and split.

    Label maps are read, and windows of their scans encoded, here and once; that needs Ray.

    All initialisations of a task are fitted and tested on the same subjects: those that every one of them has.

    Args:
        workspace: with ledger, split and embeddings of the run.
        cohort: the scan table with the label columns.
        recipe: `sweep` says which tasks, initialisations and columns.
        run: the pretraining run that is evaluated.
        on_progress: called with (done, in all, what) while label maps are read and their scans encoded.

    Returns:
        The context of the trials, and what was left out and why.

    Raises:
        StageError: no task can be evaluated.
    """
    config = recipe.sweep
    scans = ledger.usable(ledger.read_ledger(workspace), use_flagged=recipe.prepare.quality.use_flagged)
    split = read_split(workspace)
    split.check(scans)
    messages = leak_warnings(
        split, scans, near_duplicates(workspace, scans, alike_above=recipe.split.alike_above)
    )
    tasks = {name: get_task(name, recipe.tasks) for name in config.tasks}
    volume_tasks = [task for task in tasks.values() if isinstance(task, VolumeTask)]
    subject_tasks = [task for task in tasks.values() if not isinstance(task, VolumeTask)]
    runs = ablation_runs(workspace, recipe)
    problems: dict[str, Problem] = {}
    if subject_tasks:
        representations, skipped = _representations(workspace, recipe, run=run, runs=runs, scans=scans)
        owner = scans["subject_id"].astype(str)
        scans_of = {subject: tuple(sorted(ids)) for subject, ids in scans.groupby(owner)["scan_id"]}
        messages += skipped
        for task in subject_tasks:
            problem, notes = _problem(task, cohort, recipe, split, representations, scans_of)
            messages += notes
            if problem is not None:
                problems[task.name] = problem
    if volume_tasks:
        from ctplatform.evaluation.dense.assembly import volume_problems

        found, notes = volume_problems(
            workspace,
            cohort,
            recipe,
            volume_tasks,
            run=run,
            runs=runs,
            scans=scans,
            split=split,
            min_test=MIN_TEST,
            on_progress=on_progress,
        )
        problems |= found
        messages += notes
    if not problems:
        raise StageError(
            f"no task can be evaluated: {' '.join(messages)}",
            "Give label columns for one task at least",
            code="no-labels",
        )
    encoders = Encoders(
        workspace=workspace,
        run=run,
        config=recipe.pretrain.encoder,
        hu_window=recipe.prepare.hu_window,
        digest=weights_digest(workspace, run) if FINETUNE in config.initialisations else "",
    )
    training = Training(
        encoders=encoders,
        scratch=config.scratch,
        finetune=config.finetune,
        search=config.search,
        device="cuda" if config.gpus_per_trial > 0 else "cpu",
        threads=max(1, int(config.cpus_per_trial)),
    )
    images = config_hash(
        {name: sorted(scans[name].fillna("").astype(str)) for name in ("content_hash", "atlas_hash")}
    )
    ordered = {name: problems[name] for name in config.tasks if name in problems}
    return SweepContext(workspace, run, ordered, training, images), messages


def _check_test(task: Task, subjects: int) -> None:
    """Whether a task has enough labelled test subjects.

    Raises:
        StageError: it has fewer than `MIN_TEST`.
    """
    if subjects < MIN_TEST:
        raise StageError(
            f"task {task.name} is skipped: {subjects} labelled test subject(s), at least {MIN_TEST} are needed",
            "Label more subjects, or raise split.test_fraction in a new workspace",
            code="few-labels",
        )


def _representations(
    workspace: Workspace, recipe: Recipe, *, run: str, runs: Mapping[str, str], scans: pd.DataFrame
) -> tuple[dict[str, Representation], list[str]]:
    """Frozen initialisation -> its vectors; with messages on those that are skipped."""
    found: dict[str, Representation] = {}
    messages = []
    for name in (name for name in recipe.sweep.initialisations if name not in END_TO_END):
        encoder, source = ("drasclr", runs[name]) if name in runs else (name, run)
        try:
            if name in recipe.sweep.external:
                found[name], note = _external(name, recipe.sweep.external[name], scans)
                messages += [note] if note else []
            else:
                found[name] = read_representation(workspace, encoder, run=source, scans=scans)
        except StageError as error:
            messages.append(f"initialisation {name} is skipped: {error}")
    return found, messages


def _external(name: str, path: str, scans: pd.DataFrame) -> tuple[Representation, str]:
    """The user's own vectors, and a note where scans have none."""
    ids, x_NP = read_external(path)
    found = representation_of(pd.Series(ids, dtype=str), x_NP, scans=scans)
    if found is None:
        raise StageError(
            f"sweep.external.{name} has vectors of none of the {len(scans)} usable scans",
            "Use the scan_ids of the cohort table",
            code="vectors",
        )
    without = len(scans) - int(scans["scan_id"].isin(ids).sum())
    return (
        found,
        f"sweep.external.{name}: {without} of {len(scans)} usable scans have no vector" if without else "",
    )


def _problem(
    task: Task,
    cohort: pd.DataFrame,
    recipe: Recipe,
    split: Split,
    representations: Mapping[str, Representation],
    scans_of: Mapping[str, tuple[str, ...]],
) -> tuple[SubjectProblem | None, list[str]]:
    """The problem of a task, None where it cannot be evaluated; with messages."""
    usable = cohort[cohort["subject_id"].astype(str).isin(scans_of)]
    try:
        labels = task.labels(usable, recipe.sweep.columns)
    except StageError as error:
        return None, [str(error)]
    messages = list(labels.notes)
    represented = set(labels.subjects).intersection(*(r.subjects for r in representations.values()))
    missing = len(labels.subjects) - len(represented)
    if missing:
        messages.append(f"{task.name}: {missing} labelled subject(s) lack a representation and were left out")
    train, test = (tuple(s for s in side if s in represented) for side in (split.train, split.test))
    row_of = {subject: row for row, subject in enumerate(labels.subjects)}
    train_targets, test_targets = (
        labels.targets.take(np.array([row_of[s] for s in side], int)) for side in (train, test)
    )
    try:
        task.check(train_targets)
        _check_test(task, len(test))
    except StageError as error:
        return None, [*messages, str(error)]
    features = {key: (r.of(train), r.of(test)) for key, r in representations.items()}
    return SubjectProblem(task, train, train_targets, test, test_targets, features, scans_of), messages
