"""The label-efficiency sweep with Ray Tune: task x initialisation x label fraction x seed.

The grid is the experiment, so no scheduler ends a trial early; hyper-parameters are chosen inside a trial, by
cross-validation on its training subjects. A finished trial is a file below `evaluation/<run>/trials/`: whatever ends
the sweep, the next one does only what is missing or was made from other data or settings.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Cell, Shared, Trial, read_trial
from ctplatform.evaluation.dashboards import Dashboards
from ctplatform.evaluation.initialisations import END_TO_END
from ctplatform.evaluation.problems import Progress, assemble
from ctplatform.evaluation.trial import run_trial
from ctplatform.storage import layout
from ctplatform.storage.layout import EVALUATION
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task
from ctplatform.tracking.uri import tracking_uri

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep did.

    Args:
        trials: cells of the grid that have a result.
        executed: how many of them ran in this call; the others were there.
        messages: tasks skipped, labels left out, fractions raised, trials failed: for people.
        seconds: of this call.
        failed: trials without a result; a second run tries them again.
    """

    trials: int
    executed: int
    messages: tuple[str, ...]
    seconds: float
    failed: int = 0

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
    failed = 0
    if missing:
        failures = _tune(shared, missing, recipe, boards, show)
        done = {cell: trial for cell in missing if (trial := read_trial(shared, cell)) is not None}
        executed = len(done)
        messages += [
            f"trial {cell.name} failed: {failures.get(cell, 'ended without a result')}"
            for cell in missing
            if cell not in done
        ]
        failed = len(missing) - len(done)
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
    return SweepSummary(len(trials), executed, tuple(messages), time.monotonic() - start, failed)


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
    from ctplatform.evaluation.search import missing_searches, search

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
            storage_path=shared.workspace.path(EVALUATION, shared.run),
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
    from ctplatform.evaluation.summary import tables

    for name, table in tables(trials, shared.problems, bootstrap=recipe.sweep.bootstrap).items():
        data = pa.Table.from_pandas(table, preserve_index=False)
        shared.workspace.write_table(data, *layout.evaluation_table(shared.run, name))
    if any(get_task(name).kind == "survival" for name in shared.problems):
        from ctplatform.evaluation.horizons import horizons

        try:
            table = horizons(trials, shared.problems, bootstrap=recipe.sweep.bootstrap)
        except StageError as error:  # an extra that is not installed
            messages.append(str(error))
            shared.workspace.delete(EVALUATION, shared.run, layout.HORIZONS_FILE)
        else:
            data = pa.Table.from_pandas(table, preserve_index=False)
            shared.workspace.write_table(data, EVALUATION, shared.run, layout.HORIZONS_FILE)
    shared.workspace.write_json(messages, *layout.notes(shared.run))
