"""The label-efficiency sweep with Ray Tune: task x initialisation x label fraction x seed.

The grid is the experiment, so no scheduler ends a trial early; hyper-parameters are chosen inside a trial, by
cross-validation on its training subjects. A finished trial is a file below `evaluation/<run>/trials/`: whatever ends
the sweep, the next one does only what is missing or was made from other data or settings.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ctplatform import ledger
from ctplatform.ablations import ablation_runs
from ctplatform.config import Recipe, config_hash
from ctplatform.dashboards import Dashboards
from ctplatform.duplicates import near_duplicates
from ctplatform.errors import StageError
from ctplatform.representations import Representation, read_representation
from ctplatform.splits import Split, across, read_split
from ctplatform.tasks import get_task
from ctplatform.tasks.volume import VolumeTask
from ctplatform.trial import END_TO_END, FINETUNE, FOLDER, Cell, Problem, Shared, Trial, read_trial, run_trial
from ctplatform.watch import tracking_uri
from ctplatform.workspace import Workspace

logger = logging.getLogger(__name__)
MIN_TEST = 3  # subjects: with fewer no score means anything
Progress = Callable[..., None]


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep did.

    Args:
        trials: cells of the grid that have a result.
        executed: how many of them ran in this call; the others were there.
        messages: tasks skipped, labels left out, fractions raised, trials failed: for people.
        seconds: of this call.
    """

    trials: int
    executed: int
    messages: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        kept = f", {self.trials - self.executed} done before" if self.trials > self.executed else ""
        notes = f"; {len(self.messages)} note(s)" if self.messages else ""
        return f"{self.trials} trials{kept}{notes}"


def sweep(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    run: str,
    on_progress: Progress | None = None,
) -> SweepSummary:
    """Run the grid's missing trials on the Ray cluster around us, and write the tables of all.

    Writes `{results,predictions,summary,comparisons,savings,details,horizons}.parquet` and `notes.json` below
    `evaluation/<run>/`.

    Args:
        workspace: with ledger, split, embeddings of the run, and shards for the from-scratch baseline.
        cohort: the scan table with the label columns.
        recipe: `sweep` says what, `pretrain.encoder` the from-scratch architecture.
        run: the pretraining run that is evaluated.
        on_progress: called with (trials done, trials in all), from 0 done on; before that with (done, in all, what)
            while label maps are read and their scans encoded.

    Raises:
        StageError: nothing can be evaluated: no task has labels, or every trial failed.
    """
    start, mlflow = time.monotonic(), tracking_uri(recipe.watch)
    shared, messages = assemble(workspace, cohort, recipe, run=run, on_progress=on_progress)
    config = recipe.sweep
    # Seeds outermost: whatever stops a sweep, all methods have been given the same seeds.
    cells = [
        Cell(task, initialisation, fraction, seed)
        for seed, fraction, task, initialisation in itertools.product(
            range(config.seeds), config.fractions, shared.problems, config.initialisations
        )
        if initialisation in END_TO_END or initialisation in shared.problems[task].features
    ]
    finished = {cell: trial for cell in cells if (trial := read_trial(shared, cell)) is not None}
    missing = [cell for cell in cells if cell not in finished]
    boards = Dashboards(shared, recipe, mlflow=mlflow)
    boards.show(list(finished.values()))
    show = _Counter(len(cells), on_progress)
    show(len(finished))
    messages += _search(shared, missing, recipe, boards, show)
    executed = 0
    if missing:
        failures = _tune(shared, missing, recipe, boards, show)
        done = {cell: trial for cell in missing if (trial := read_trial(shared, cell)) is not None}
        executed = len(done)
        messages += [
            f"trial {cell.name} failed: {failures.get(cell, 'ended without a result')}"
            for cell in missing
            if cell not in done
        ]
        finished |= done
    boards.close()
    if not finished:
        raise StageError(
            f"none of {len(cells)} trials of run {run} has a result: {'; '.join(messages[:5])}",
            "Correct the first cause and run `drasclr sweep` again",
            code="sweep",
        )
    trials = [finished[cell] for cell in cells if cell in finished]
    messages += dict.fromkeys(note for trial in trials for note in trial.notes)
    _write(shared, trials, messages, recipe)
    for message in messages:
        logger.info("%s", message)
    return SweepSummary(len(trials), executed, tuple(messages), time.monotonic() - start)


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
    messages = across(split, scans, near_duplicates(workspace, scans, alike_above=recipe.split.alike_above))
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
        from ctplatform.dense.problem import volume_problems

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
    from ctplatform.pretrain import FOLDER as PRETRAIN
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


class _Counter:
    """What is done of all trials; configurations of searches count too, once their number is known."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.done, self.total, self.on_progress = 0, total, on_progress

    def __call__(self, more: int = 1, *, of: int = 0) -> None:
        self.done, self.total = self.done + more, self.total + of
        if self.on_progress:
            self.on_progress(self.done, self.total)


def _search(
    shared: Shared, missing: list[Cell], recipe: Recipe, boards: Dashboards, show: _Counter
) -> list[str]:
    """Search hyper-parameters in the missing cells, where the recipe says so; returns problems."""
    if not any(map(shared.searches, missing)):
        return []
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # verbose=0 is silent in the older output only
    from ctplatform.search import missing_searches, search

    cells = missing_searches(shared, missing)
    if not cells:
        return []
    show(0, of=len(cells) * recipe.sweep.search.configurations)
    return list(dict.fromkeys(search(shared, cells, recipe, on_tried=boards.tried, on_progress=show)))


def _tune(
    shared: Shared, cells: list[Cell], recipe: Recipe, boards: Dashboards, show: _Counter
) -> dict[Cell, str]:
    """Run some cells; returns the problems of those that failed."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune

    class Watch(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            boards.committed(Cell(**trial.config["cell"]))
            show()

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            show()

    config = recipe.sweep
    trainable = tune.with_parameters(_trainable, shared=shared)
    trainable = tune.with_resources(
        trainable,
        {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial, **recipe.placement.sweep.resources},
    )
    tuner = tune.Tuner(
        trainable,
        param_space={"cell": tune.grid_search([asdict(cell) for cell in cells])},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=config.max_concurrent,
            reuse_actors=True,  # a worker keeps its imports and the patches that it has read
            trial_dirname_creator=lambda trial: f"{Cell(**trial.config['cell']).name}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=shared.workspace.path(FOLDER, shared.run),
            storage_filesystem=None if shared.workspace.is_local else shared.workspace.fs,
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[Watch()],
            verbose=0,
        ),
    )
    problems = {}
    results = tuner.fit()
    for result in (results[i] for i in range(len(results))):
        cell = Cell(**result.config["cell"]) if result.config else None
        problem = (
            str(result.error).strip().splitlines()[-1]
            if result.error
            else (result.metrics or {}).get("problem")
        )
        if cell and problem:
            problems[cell] = problem
    return problems


def _trainable(config: dict[str, Any], shared: Shared) -> None:
    """What Tune runs. Problems of the data are reported, so that Tune does not try again what cannot succeed."""
    from ray import tune

    cell = Cell(**config["cell"])
    try:
        trial = run_trial(shared, cell)
    except StageError as error:
        tune.report({"problem": str(error)})
        return
    problem = shared.problems[cell.task]
    scores = {metric.name: metric.value(problem.test, trial.outcome) for metric in get_task(cell.task).scores}
    tune.report({**scores, "n_train": trial.n_train, "n_test": trial.n_test, "seconds": trial.seconds})


def _write(shared: Shared, trials: list[Trial], messages: list[str], recipe: Recipe) -> None:
    from ctplatform.summary import tables

    for name, table in tables(trials, shared.problems, bootstrap=recipe.sweep.bootstrap).items():
        data = pa.Table.from_pandas(table, preserve_index=False)
        shared.workspace.write_table(data, FOLDER, shared.run, f"{name}.parquet")
    if any(get_task(name).kind == "survival" for name in shared.problems):
        from ctplatform.horizons import horizons

        try:
            table = horizons(trials, shared.problems, bootstrap=recipe.sweep.bootstrap)
        except StageError as error:  # an extra that is not installed
            messages.append(str(error))
            shared.workspace.delete(FOLDER, shared.run, "horizons.parquet")
        else:
            data = pa.Table.from_pandas(table, preserve_index=False)
            shared.workspace.write_table(data, FOLDER, shared.run, "horizons.parquet")
    shared.workspace.write_json(messages, FOLDER, shared.run, "notes.json")
