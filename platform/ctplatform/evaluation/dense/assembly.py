"""Tasks on label maps joined with cohort, ledger and split; their labelled scans are made ready by Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ctplatform.compute.fan_out import fan_out
from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.dataset.splits import Split
from ctplatform.errors import StageError
from ctplatform.evaluation.dense.features import encode_scan, features_key
from ctplatform.evaluation.dense.labelled_scan import prepare_scan
from ctplatform.evaluation.dense.problem import VolumeProblem
from ctplatform.evaluation.dense.sources import ScanSource, labelled_scans
from ctplatform.evaluation.dense.volumes import LabelledVolumes
from ctplatform.evaluation.initialisations import END_TO_END
from ctplatform.evaluation.problems import Problem
from ctplatform.inference.encoders import weights_digest
from ctplatform.metrics.scores import Targets
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.label_map import VolumeTask

Progress = Callable[[int, int, str], None]
NO_FEATURES = (np.empty((0, 0)), np.empty((0, 0)))


def volume_problems(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    tasks: Sequence[VolumeTask],
    *,
    run: str,
    runs: Mapping[str, str],
    scans: pd.DataFrame,
    split: Split,
    min_test: int,
    on_progress: Progress | None = None,
) -> tuple[dict[str, Problem], list[str]]:
    """Tasks on label maps as problems. Reads label maps and encodes windows where that has not been done; needs Ray.

    Args:
        runs: initialisation -> pretraining run, of ablations and of the user's own runs.
        scans: the ledger's usable rows.
        min_test: fewest test subjects.
        on_progress: called with (done, in all, what).

    Returns:
        Task -> its problem, of those that can be evaluated; and what was left out and why.

    Raises:
        StageError: `sweep.classes` does not fit a task.
    """
    messages: list[str] = []
    maps: list[tuple[VolumeTask, pd.DataFrame]] = []
    usable = cohort[cohort["scan_id"].isin(scans["scan_id"])]
    for task in tasks:
        try:
            maps.append((task, task.maps(usable, recipe.sweep.columns)))
        except StageError as error:
            messages.append(str(error))
    if not maps:
        return {}, messages
    sources = labelled_scans(maps, recipe, scans)
    facts, left_out = _prepare(workspace, sources, recipe, on_progress)
    encoders, skipped = _encoders(workspace, recipe, run, runs)
    messages += left_out + skipped
    problems: dict[str, Problem] = {}
    for task, table in maps:
        try:
            problem = _join(workspace, task, table, sources, facts, split, recipe, encoders, min_test)
        except StageError as error:
            messages.append(str(error))
            continue
        if problem.volumes.keys:
            _encode(problem.volumes, encoders, recipe, on_progress)
        problems[task.name] = problem
    return problems, messages


def _prepare(
    workspace: Workspace,
    sources: Mapping[str, ScanSource],
    recipe: Recipe,
    on_progress: Progress | None,
) -> tuple[dict[tuple[str, str], dict[str, Any]], list[str]]:
    """(scan, task) -> facts of its label map; scans with a problem are left out, with a message."""
    stride, config = recipe.sweep.dense.stride, recipe.prepare.model_dump_json()
    work = [(workspace, source, config, stride) for source in sources.values()]
    results = _on_ray(prepare_scan, work, recipe, "label maps read", on_progress)
    facts, messages = {}, []
    for source, found in zip(sources.values(), results):
        for task, fact in found.items():
            if "problem" in fact:
                messages.append(f"{task}: scan {source.scan_id} is left out: {fact['problem']}")
            else:
                facts[source.scan_id, task] = fact
    return facts, messages


def _encoders(
    workspace: Workspace, recipe: Recipe, run: str, runs: Mapping[str, str]
) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Frozen initialisation -> (its pretraining run, name of its features); with messages on those without weights."""
    atlas = read_atlas(workspace).hash
    found, messages = {}, []
    for name in (n for n in recipe.sweep.initialisations if n not in END_TO_END):
        source = runs.get(name, run)
        if name in recipe.sweep.external or name in recipe.sweep.encoders:
            messages.append(
                f"initialisation {name} has vectors of scans only, none of windows for tasks on label maps"
            )
            continue
        if name == "density":
            digest = "density"
        elif name == "random":
            digest = config_hash(recipe.pretrain.encoder, str(recipe.pretrain.seed))
        elif workspace.exists(*layout.weights(source)):
            digest = weights_digest(workspace, source)
        else:
            messages.append(
                f"initialisation {name} has no weights for tasks on label maps: run {source} is not trained"
            )
            continue
        found[name] = (source, features_key(recipe, name, digest, atlas))
    return found, messages


def _join(
    workspace: Workspace,
    task: VolumeTask,
    table: pd.DataFrame,
    sources: Mapping[str, ScanSource],
    facts: Mapping[tuple[str, str], dict[str, Any]],
    split: Split,
    recipe: Recipe,
    encoders: Mapping[str, tuple[str, str]],
    min_test: int,
) -> VolumeProblem:
    scan_of = {
        str(row.subject_id): str(row.scan_id)
        for row in table.itertuples()
        if (str(row.scan_id), task.name) in facts
    }
    train_subjects, test_subjects = (
        tuple(s for s in subjects if s in scan_of) for subjects in (split.train, split.test)
    )
    train, test = (
        Targets(
            np.array([facts[scan_of[s], task.name]["voxels"] for s in subjects], float).reshape(
                -1, len(task.classes)
            )
        )
        for subjects in (train_subjects, test_subjects)
    )
    task.check(train)
    if len(test) < min_test:
        raise StageError(
            f"task {task.name} is skipped: {len(test)} test subject(s) with a label map, at least {min_test} needed",
            "Label more subjects, or raise split.test_fraction in a new workspace",
            code="few-labels",
        )
    regions = task.kind == "regions"
    return VolumeProblem(
        task=task,
        train_subjects=train_subjects,
        train=train,
        test_subjects=test_subjects,
        test=test,
        features=dict.fromkeys(encoders, NO_FEATURES) if regions else {},
        volumes=LabelledVolumes(
            task=task,
            workspace=workspace,
            train=tuple(sources[scan_of[s]] for s in train_subjects),
            test=tuple(sources[scan_of[s]] for s in test_subjects),
            keys={name: key for name, (_, key) in encoders.items()} if regions else {},
            config=recipe.sweep,
        ),
        settings=config_hash(recipe.sweep.dense if regions else recipe.sweep.segmentation),
    )


def _encode(
    volumes: LabelledVolumes,
    encoders: Mapping[str, tuple[str, str]],
    recipe: Recipe,
    on_progress: Progress | None,
) -> None:
    """Features of every labelled scan with every frozen encoder, where they are missing."""
    recipe_json = recipe.model_dump_json()
    work = [
        {
            "workspace": volumes.workspace,
            "source": source,
            "map_source": volumes.map_of(source),
            "encoder": name,
            "run": run,
            "key": key,
            "training": training,
            "recipe_json": recipe_json,
        }
        for name, (run, key) in encoders.items()
        for training, sources in ((True, volumes.train), (False, volumes.test))
        for source in sources
        if not volumes.workspace.exists(*source.features_path(key, volumes.map_of(source)))
    ]
    _on_ray(_encode_one, [(item,) for item in work], recipe, "scans encoded", on_progress)


def _encode_one(item: dict[str, Any]) -> None:
    encode_scan(**item)


def _on_ray(
    function: Callable[..., Any],
    work: list[tuple[Any, ...]],
    recipe: Recipe,
    text: str,
    on_progress: Progress | None,
) -> list[Any]:
    """The results of a function, as Ray tasks, in order."""
    if not work:
        return []
    import ray

    resources = dict(recipe.placement.sweep.resources)
    remote = ray.remote(num_cpus=recipe.sweep.cpus_per_trial, max_retries=3, resources=resources)(function)
    return fan_out(
        lambda arguments: remote.remote(*arguments),
        work,
        on_progress=on_progress and (lambda done: on_progress(done, len(work), text)),
    )
