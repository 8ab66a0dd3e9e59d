"""TODO."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.dataset.duplicates import near_duplicates
from ctplatform.dataset.splits import Split, leak_warnings, read_split
from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Problem, Shared
from ctplatform.evaluation.initialisations import END_TO_END, FINETUNE
from ctplatform.inference.representations import Representation, read_representation
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task
from ctplatform.tasks.label_map import VolumeTask
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
) -> tuple[Shared, list[str]]:
    """Labels, representations and split, joined; with what was left out and why.

    Label maps are read, and windows of their scans encoded, here and once; that needs Ray.

    All initialisations of a task are fitted and tested on the same subjects: those that every one of them has.

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
    representations: dict[str, Representation] = {}
    runs = ablation_runs(workspace, recipe)
    on_maps = [task for task in config.tasks if isinstance(get_task(task), VolumeTask)]
    on_subjects = [task for task in config.tasks if task not in on_maps]
    for name in (name for name in config.initialisations if name not in END_TO_END and on_subjects):
        encoder, source = ("drasclr", runs[name]) if name in runs else (name, run)
        try:
            representations[name] = read_representation(workspace, encoder, run=source, scans=scans)
        except StageError as error:
            messages.append(f"initialisation {name} is skipped: {error}")
    problems: dict[str, Problem] = {}
    for task in on_subjects:
        try:
            problems[task] = _problem(task, cohort, recipe, scans, split, representations, messages)
        except StageError as error:
            messages.append(str(error))
    if on_maps:
        from ctplatform.evaluation.dense.problem import volume_problems

        problems |= volume_problems(
            workspace,
            cohort,
            recipe,
            run=run,
            runs=runs,
            scans=scans,
            split=split,
            messages=messages,
            min_test=MIN_TEST,
            on_progress=on_progress,
        )
        problems = {task: problems[task] for task in config.tasks if task in problems}
    if not problems:
        raise StageError(
            f"no task can be evaluated: {' '.join(messages)}",
            "Give label columns for one task at least",
            code="no-labels",
        )
    owner = scans["subject_id"].astype(str)
    images = config_hash(
        {name: sorted(scans[name].fillna("").astype(str)) for name in ("content_hash", "atlas_hash")}
    )
    shared = Shared(
        workspace=workspace,
        run=run,
        problems=problems,
        scans={subject: tuple(sorted(ids)) for subject, ids in scans.groupby(owner)["scan_id"]},
        scratch=config.scratch,
        finetune=config.finetune,
        encoder=recipe.pretrain.encoder,
        hu_window=recipe.prepare.hu_window,
        images=images,
        weights=_weights_digest(workspace, run) if FINETUNE in config.initialisations else "",
        device="cuda" if config.gpus_per_trial > 0 else "cpu",
        threads=max(1, int(config.cpus_per_trial)),
        search=config.search,
    )
    return shared, messages


def _weights_digest(workspace: Workspace, run: str) -> str:
    from ctplatform.storage.layout import PRETRAIN
    from drasclr.weights import WEIGHTS

    return hashlib.sha256(workspace.read_bytes(PRETRAIN, run, WEIGHTS)).hexdigest()


def _problem(
    name: str,
    cohort: pd.DataFrame,
    recipe: Recipe,
    scans: pd.DataFrame,
    split: Split,
    representations: Mapping[str, Representation],
    messages: list[str],
) -> Problem:
    task = get_task(name)
    usable = cohort[cohort["subject_id"].astype(str).isin(scans["subject_id"].astype(str))]
    labels = task.labels(usable, recipe.sweep.columns)
    messages += labels.notes
    known = set(labels.subjects).intersection(*(r.subjects for r in representations.values()))
    if len(known) < len(labels.subjects):
        messages.append(
            f"{name}: {len(labels.subjects) - len(known)} labelled subject(s) lack a representation and were left out"
        )
    place = {subject: row for row, subject in enumerate(labels.subjects)}
    train, test = (tuple(s for s in side if s in known) for side in (split.train, split.test))
    targets = [labels.targets.take(np.array([place[s] for s in side], int)) for side in (train, test)]
    task.check(targets[0])
    if len(test) < MIN_TEST:
        raise StageError(
            f"task {name} is skipped: {len(test)} labelled test subject(s), at least {MIN_TEST} are needed",
            "Label more subjects, or raise split.test_fraction in a new workspace",
            code="few-labels",
        )
    features = {key: (r.of(train), r.of(test)) for key, r in representations.items()}
    return Problem(name, train, targets[0], test, targets[1], features)
