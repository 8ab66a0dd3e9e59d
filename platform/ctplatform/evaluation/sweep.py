"""The label-efficiency sweep with Ray Tune: task x initialisation x label fraction x seed.

The grid is the experiment, so no scheduler ends a trial early; hyper-parameters are chosen inside a trial, by
cross-validation on its training subjects. A finished trial is a file below `evaluation/<run>/trials/`: whatever ends
the sweep, the next one does only what is missing or was made from other data or settings.
"""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.evaluation.assembly import Progress, assemble
from ctplatform.evaluation.cells import Cell, Trial
from ctplatform.evaluation.context import SweepContext
from ctplatform.evaluation.dashboards import Dashboards
from ctplatform.evaluation.initialisations import END_TO_END
from ctplatform.evaluation.trial import evaluate
from ctplatform.evaluation.tuner import RETRIES, run_trials
from ctplatform.storage import layout
from ctplatform.storage.layout import EVALUATION, HORIZONS_FILE
from ctplatform.storage.workspace import Workspace
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
    `evaluation/<run>/`, and models fitted on all training subjects below its `models/`.

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
    context, messages = assemble(workspace, cohort, recipe, run=run, on_progress=on_progress)
    config = recipe.sweep
    # Seeds outermost: a sweep that is stopped has compared all methods on the same seeds.
    cells = [
        Cell(task, initialisation, fraction, seed)
        for seed, fraction, task, initialisation in itertools.product(
            range(config.seeds), config.fractions, context.problems, config.initialisations
        )
        if initialisation in END_TO_END or initialisation in context.problems[task].features
    ]
    finished = {cell: trial for cell in cells if (trial := context.read_trial(cell)) is not None}
    missing = [cell for cell in cells if cell not in finished]
    boards = Dashboards(context, recipe, mlflow=mlflow)
    boards.show(list(finished.values()))
    count = _Counter(len(cells), on_progress)
    count(len(finished))
    messages += _search(context, missing, recipe, boards, count)
    executed = failed = 0
    if missing:
        failures = _run(context, missing, recipe, boards, count)
        done = {cell: trial for cell in missing if (trial := context.read_trial(cell)) is not None}
        executed, failed = len(done), len(missing) - len(done)
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
    messages += _write_tables(context, trials, recipe)
    context.workspace.write_json(messages, *layout.notes(run))
    for message in messages:
        logger.info("%s", message)
    return SweepSummary(len(trials), executed, tuple(messages), time.monotonic() - start, failed)


class _Counter:
    """Trials done of all; configurations of searches are counted too, once their number is known."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.done, self.total, self.on_progress = 0, total, on_progress

    def __call__(self, more: int = 1, *, of: int = 0) -> None:
        self.done, self.total = self.done + more, self.total + of
        if self.on_progress:
            self.on_progress(self.done, self.total)


def _search(
    context: SweepContext, missing: list[Cell], recipe: Recipe, boards: Dashboards, count: _Counter
) -> list[str]:
    """Search hyper-parameters in the missing cells, where the recipe says so; returns problems."""
    if not any(map(context.searches, missing)):
        return []
    from ctplatform.evaluation.search import missing_searches, search

    cells = missing_searches(context, missing)
    if not cells:
        return []
    count(0, of=len(cells) * recipe.sweep.search.configurations)
    return list(dict.fromkeys(search(context, cells, recipe, on_tried=boards.tried, on_progress=count)))


def _run(
    context: SweepContext, cells: list[Cell], recipe: Recipe, boards: Dashboards, count: _Counter
) -> dict[Cell, str]:
    """Run some cells; returns the problems of those that failed. Those whose process was lost are begun again."""
    problems: dict[Cell, str] = {}
    lost: dict[Cell, str] = {}
    for _ in range(1 + RETRIES):
        failed, lost = _tune(context, cells, recipe, boards, count)
        problems |= failed
        for cell in [cell for cell in lost if context.read_trial(cell)]:  # lost after it had committed
            del lost[cell]
            boards.committed(cell)
            count()
        if not lost:
            return problems
        cells = list(lost)
        logger.warning("%d trial(s) were lost with their process or its node", len(lost))
    count(len(lost))
    return problems | lost


def _tune(
    context: SweepContext, cells: list[Cell], recipe: Recipe, boards: Dashboards, count: _Counter
) -> tuple[dict[Cell, str], dict[Cell, str]]:
    """Run some cells; returns the problems of those that failed, and of those whose process was lost."""
    from ray import tune

    class Progressing(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            boards.committed(Cell(**trial.config["cell"]))
            count()

    ended = run_trials(
        _trainable,
        context,
        recipe,
        folder="tune",
        name_of=lambda config: Cell(**config["cell"]).name,
        callback=Progressing(),
        param_space={"cell": tune.grid_search([asdict(cell) for cell in cells])},
    )
    failed: dict[Cell, str] = {}
    lost: dict[Cell, str] = {}
    of_name = {cell.name: cell for cell in cells}
    for trial in ended:
        cell = of_name[trial.name]
        if trial.lost:
            lost[cell] = "its process, or the node of it, was lost each time"
        elif trial.error:
            failed[cell] = str(trial.error).strip().splitlines()[-1]
            count()
        elif problem := trial.metrics.get("problem"):
            failed[cell] = problem
    return failed, lost


def _trainable(config: dict[str, Any], context: SweepContext) -> None:
    """A trial as Tune runs it. Problems of the data are reported as results, since Tune would retry an exception."""
    from ray import tune

    cell = Cell(**config["cell"])
    try:
        trial = evaluate(context, cell)
    except StageError as error:
        tune.report({"problem": str(error)})
        return
    problem = context.problems[cell.task]
    scores = {metric.name: metric.value(problem.test, trial.outcome) for metric in problem.task.scores}
    tune.report({**scores, "n_train": trial.n_train, "n_test": trial.n_test, "seconds": trial.seconds})


def _write_tables(context: SweepContext, trials: list[Trial], recipe: Recipe) -> list[str]:
    """Write the tables of all trials, and the kept models; returns messages on those that could not be made."""
    from ctplatform.evaluation.kept_models import keep_models
    from ctplatform.evaluation.summary import tables

    workspace, bootstrap = context.workspace, recipe.sweep.bootstrap
    made = tables(trials, context.problems, bootstrap=bootstrap)
    messages = keep_models(context, recipe, made["summary"])
    for name, table in made.items():
        data = pa.Table.from_pandas(table, preserve_index=False)
        workspace.write_table(data, *layout.evaluation_table(context.run, name))
    if any(problem.task.kind == "survival" for problem in context.problems.values()):
        from ctplatform.evaluation.horizons import horizons

        try:
            table = horizons(trials, context.problems, bootstrap=bootstrap)
        except StageError as error:  # an extra that is not installed
            workspace.delete(EVALUATION, context.run, HORIZONS_FILE)
            return [*messages, str(error)]
        data = pa.Table.from_pandas(table, preserve_index=False)
        workspace.write_table(data, EVALUATION, context.run, HORIZONS_FILE)
    return messages
