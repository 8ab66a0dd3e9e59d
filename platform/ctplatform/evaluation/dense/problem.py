"""Tasks on label maps as problems of the sweep: cohort, ledger and split joined, labelled scans made ready by Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ctplatform.compute.fan_out import fan_out
from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.dataset.splits import Split
from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Problem
from ctplatform.evaluation.dense.features import (
    VERSION,
    MapSource,
    ScanSource,
    encode_scan,
    features_key,
    prepare_scan,
)
from ctplatform.evaluation.initialisations import END_TO_END
from ctplatform.imaging.fingerprint import fingerprint
from ctplatform.metrics.scores import Targets
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task
from ctplatform.tasks.label_map import VolumeTask

Progress = Callable[[int, int, str], None]
NO_FEATURES = (np.empty((0, 0)), np.empty((0, 0)))


@dataclass(frozen=True)
class VolumeProblem(Problem):
    """A problem whose targets are voxels a class, [N, C], and whose trials read cubes and label maps.

    Args:
        train_sources, test_sources: the labelled scan of each subject, in their order.
        keys: frozen initialisation -> name of its features.
        settings: digest of the recipe's section that trials depend on.
        recipe: as JSON.
    """

    train_sources: tuple[ScanSource, ...] = ()
    test_sources: tuple[ScanSource, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    recipe: str = ""

    def digest(self, initialisation: str) -> str:
        """Changes when a trial of this initialisation would come out differently."""
        files = [(s.scan_id, s.key, self.map_of(s).key) for s in (*self.train_sources, *self.test_sources)]
        own = [super().digest(initialisation), files, self.keys.get(initialisation), self.settings]
        return hashlib.sha256(repr(own).encode()).hexdigest()

    @property
    def parsed(self) -> Recipe:
        """The recipe."""
        return _parsed(self.recipe)

    def map_of(self, source: ScanSource) -> MapSource:
        """The scan's label map of this task."""
        return next(m for m in source.maps if m.task == self.task)


@lru_cache(maxsize=4)
def _parsed(recipe: str) -> Recipe:
    return Recipe.model_validate_json(recipe)


def volume_problems(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    run: str,
    runs: Mapping[str, str],
    scans: pd.DataFrame,
    split: Split,
    messages: list[str],
    min_test: int,
    on_progress: Progress | None = None,
) -> dict[str, Problem]:
    """The recipe's tasks on label maps that can be evaluated; what is left out goes to `messages`.

    Args:
        runs: initialisation -> pretraining run, of ablations and runs of the user's.
        scans: the ledger's usable rows.
        min_test: fewest test subjects.
    """
    tasks: dict[str, VolumeTask] = {}
    maps: dict[str, pd.DataFrame] = {}
    usable = cohort[cohort["scan_id"].isin(scans["scan_id"])]
    for name in recipe.sweep.tasks:
        task = get_task(name)
        if not isinstance(task, VolumeTask):
            continue
        try:
            maps[name] = task.maps(usable, recipe.sweep.columns)
            tasks[name] = task
        except StageError as error:
            messages.append(str(error))
    sources = _sources(tasks, maps, recipe, scans)
    facts = _prepare(workspace, sources, recipe, messages, on_progress)
    problems: dict[str, Problem] = {}
    encoders = _encoders(workspace, recipe, run, runs, messages) if tasks else {}
    for name, task in tasks.items():
        try:
            problem = _join(task, maps[name], sources, facts, split, recipe, encoders, min_test)
        except StageError as error:
            messages.append(str(error))
            continue
        if problem.keys:
            _encode(workspace, problem, encoders, recipe, on_progress)
        problems[name] = problem
    return problems


def _sources(
    tasks: Mapping[str, VolumeTask], maps: Mapping[str, pd.DataFrame], recipe: Recipe, scans: pd.DataFrame
) -> dict[str, ScanSource]:
    ledger = scans.set_index("scan_id")
    config = recipe.prepare
    drawn = [config.lungs.model_dump(), config.sampling.model_dump(), list(config.hu_window)]
    of_scan: dict[str, list[MapSource]] = {}
    paths: dict[str, Any] = {}
    for name, table in maps.items():
        classes = class_values(tasks[name], recipe)
        for row in table.to_dict("records"):
            scan_id = str(row["scan_id"])
            paths[scan_id] = row
            own = [
                VERSION,
                name,
                classes,
                fingerprint(row["label_map"]),
                ledger.loc[scan_id, "content_hash"],
                drawn,
            ]
            own.append([round(float(v), 6) for v in ledger.loc[scan_id, "affine"]])
            key, regions = config_hash({"map": own}), tasks[name].kind == "regions"
            source = MapSource(name, str(row["label_map"]), classes, regions, key)
            of_scan.setdefault(scan_id, []).append(source)
    found = {}
    for scan_id, sources in of_scan.items():
        affine = tuple(float(v) for v in ledger.loc[scan_id, "affine"])
        key = config_hash({"cube": [VERSION, ledger.loc[scan_id, "content_hash"], affine, drawn]})
        series_uid = paths[scan_id].get("series_uid")
        found[scan_id] = ScanSource(
            scan_id,
            str(paths[scan_id]["path"]),
            "" if series_uid is None or pd.isna(series_uid) else str(series_uid),
            affine,
            key,
            tuple(sources),
        )
    return found


def class_values(task: VolumeTask, recipe: Recipe) -> dict[str, int]:
    """Class -> value in the label maps, in the task's order.

    Raises:
        StageError: `sweep.classes` names other classes.
    """
    given = recipe.sweep.classes.get(task.name, dict(task.classes))
    if set(given) != set(task.classes):
        raise StageError(
            f"sweep.classes.{task.name} names {', '.join(given)}",
            f"Give a value for each of {', '.join(task.classes)}",
            code="config",
        )
    return {name: given[name] for name in task.classes}


def _prepare(
    workspace: Workspace,
    sources: Mapping[str, ScanSource],
    recipe: Recipe,
    messages: list[str],
    on_progress: Progress | None,
) -> dict[tuple[str, str], dict[str, Any]]:
    """(scan, task) -> facts of its label map; scans with a problem are left out, with a message."""
    stride, config = recipe.sweep.dense.stride, recipe.prepare.model_dump_json()
    work = [(workspace, source, config, stride) for source in sources.values()]
    results = _on_ray(prepare_scan, work, recipe, "label maps read", on_progress)
    facts = {}
    for source, found in zip(sources.values(), results):
        for task, fact in found.items():
            if "problem" in fact:
                messages.append(f"{task}: scan {source.scan_id} is left out: {fact['problem']}")
            else:
                facts[source.scan_id, task] = fact
    return facts


def _join(
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
    sides = [tuple(s for s in side if s in scan_of) for side in (split.train, split.test)]
    voxels = [
        np.array([facts[scan_of[s], task.name]["voxels"] for s in side], float).reshape(-1, len(task.classes))
        for side in sides
    ]
    train, test = map(Targets, voxels)
    task.check(train)
    if len(test) < min_test:
        raise StageError(
            f"task {task.name} is skipped: {len(test)} test subject(s) with a label map, at least {min_test} needed",
            "Label more subjects, or raise split.test_fraction in a new workspace",
            code="few-labels",
        )
    regions = task.kind == "regions"
    section = recipe.sweep.dense if regions else recipe.sweep.segmentation
    return VolumeProblem(
        task=task.name,
        train_subjects=sides[0],
        train=train,
        test_subjects=sides[1],
        test=test,
        features=dict.fromkeys(encoders, NO_FEATURES) if regions else {},
        train_sources=tuple(sources[scan_of[s]] for s in sides[0]),
        test_sources=tuple(sources[scan_of[s]] for s in sides[1]),
        keys={name: key for name, (_, key) in encoders.items()} if regions else {},
        settings=config_hash(section),
        recipe=recipe.model_dump_json(),
    )


def _encoders(
    workspace: Workspace, recipe: Recipe, run: str, runs: Mapping[str, str], messages: list[str]
) -> dict[str, tuple[str, str]]:
    """Frozen initialisation -> (its pretraining run, name of its features)."""
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.storage.layout import PRETRAIN
    from drasclr.weights import WEIGHTS

    atlas, found = read_atlas(workspace).hash, {}
    for name in (n for n in recipe.sweep.initialisations if n not in END_TO_END):
        source = runs.get(name, run)
        if name == "density":
            digest = "density"
        elif name == "random":
            digest = config_hash(recipe.pretrain.encoder, str(recipe.pretrain.seed))
        elif workspace.exists(PRETRAIN, source, WEIGHTS):
            digest = hashlib.sha256(workspace.read_bytes(PRETRAIN, source, WEIGHTS)).hexdigest()
        else:
            messages.append(
                f"initialisation {name} has no weights for tasks on label maps: run {source} is not trained"
            )
            continue
        found[name] = (source, features_key(recipe, name, digest, atlas))
    return found


def _encode(
    workspace: Workspace,
    problem: VolumeProblem,
    encoders: Mapping[str, tuple[str, str]],
    recipe: Recipe,
    on_progress: Progress | None,
) -> None:
    """Features of every labelled scan with every frozen encoder, where they are missing."""
    recipe_json = recipe.model_dump_json()
    work = [
        {
            "workspace": workspace,
            "source": source,
            "map_source": problem.map_of(source),
            "encoder": name,
            "run": run,
            "key": key,
            "training": training,
            "recipe_json": recipe_json,
        }
        for name, (run, key) in encoders.items()
        for training, sources in ((True, problem.train_sources), (False, problem.test_sources))
        for source in sources
        if not workspace.exists(*source.features(key, problem.map_of(source)))
    ]
    _on_ray(_encode_one, [(item,) for item in work], recipe, "scans encoded", on_progress)


def _encode_one(item: dict[str, Any]) -> None:
    encode_scan(**item)


def _on_ray(
    function: Callable, work: list[tuple], recipe: Recipe, text: str, on_progress: Progress | None
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
