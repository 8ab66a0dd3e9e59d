"""Hyper-parameters of end-to-end trials, searched inside each cell of the grid and never on test subjects.

Configurations are compared on a part of the cell's own training subjects. Each cell has a scheduler of its own: ASHA
over the whole grid would stop the cells with few labels, which the experiment is about. The first configuration is the
recipe's. The choice is committed for each cell, `evaluation/<run>/searches/<cell>.json`; the cell's trial then trains
with it on all of its training subjects.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ray import tune

from ctplatform.config.evaluation import SearchConfig
from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Cell, Chosen, label_subset
from ctplatform.evaluation.context import SweepContext
from ctplatform.evaluation.models import end_to_end, patch_pool
from ctplatform.evaluation.problems import SubjectProblem
from ctplatform.evaluation.schedulers import CellASHA, WithinCells, rungs
from ctplatform.evaluation.tuner import RETRIES, Ended, run_trials
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import stratified_order

logger = logging.getLogger(__name__)

MIN_VALIDATION = 4  # subjects
DIVERGED_LOSS = 1e9
Progress = Callable[[int], None]
Tried = Callable[[Cell, int, Mapping[str, float], Sequence[tuple[int, float]]], None]


@dataclass(frozen=True)
class Attempt:
    """One configuration that was tried: its number in the cell, values, steps done, last loss and seconds."""

    number: int
    lr: float
    weight_decay: float
    steps: int
    loss: float
    seconds: float


def missing_searches(context: SweepContext, cells: list[Cell]) -> list[Cell]:
    """Cells whose search has not been committed, without those that are too small to search in."""
    return [
        cell
        for cell in cells
        if context.searches(cell)
        and not context.read_chosen(cell)
        and validation_rows(context, cell) is not None
    ]


def search(
    context: SweepContext,
    cells: list[Cell],
    recipe: Recipe,
    *,
    on_tried: Tried | None = None,
    on_progress: Progress | None = None,
) -> list[str]:
    """Search in these cells, several at a time; returns problems.

    Args:
        context: problems and settings.
        cells: where to search.
        recipe: `sweep.search` and the resources of trials.
        on_tried: called with cell, number, values and (step, loss) pairs of each configuration that has ended.
        on_progress: called with 1 after each, and with minus those that are done again.
    """
    config, problems = recipe.sweep.search, list[str]()
    for left in range(RETRIES, -1, -1):
        committing = _Commit(context, config, on_tried, on_progress)
        ended = run_trials(
            SearchTrial,
            context,
            recipe,
            folder="search",
            name_of=lambda values: str(values["number"]),
            callback=committing,
            search_alg=WithinCells(context, cells, config, width=recipe.sweep.max_concurrent),
            scheduler=CellASHA(context, config),
            num_samples=config.configurations * len(cells),
        )
        cells = committing.settle(ended, last=not left)
        problems += committing.problems
        if not cells:
            break
        if on_progress:
            on_progress(-sum(len(committing.ended.get(cell, [])) for cell in cells))
        logger.warning("searches in %d cell(s) lost a process or its node; they are begun again", len(cells))
    return problems


class SearchTrial(tune.Trainable):
    """One configuration in one cell. A step of Tune's trains up to the next rung; the process keeps its patches."""

    def setup(self, config: dict[str, Any], context: SweepContext) -> None:  # type: ignore[override]  # as with_parameters calls
        self.context = context
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.attempt = attempt(
            self.context, Cell(**config["cell"]), lr=config["lr"], weight_decay=config["weight_decay"]
        )

    def step(self) -> dict[str, Any]:
        try:
            return next(self.attempt)
        except StageError as error:  # of the data: trying again would not help
            return {"problem": str(error), "steps": 0, "loss": DIVERGED_LOSS, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is saved: a search that is interrupted begins again in the cells that it had not finished."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """See `save_checkpoint`."""


def attempt(context: SweepContext, cell: Cell, *, lr: float, weight_decay: float) -> Iterator[dict[str, Any]]:
    """Train with these values on a part of the cell's training subjects.

    Yields:
        At each rung: steps, loss of the other training subjects, seconds, and whether it was the last rung.
    """
    start = time.perf_counter()
    training, problem, rows = context.training, context.problems[cell.task], validation_rows(context, cell)
    assert isinstance(problem, SubjectProblem)
    assert rows is not None
    steps = training.steps(len(problem.train))
    pool = patch_pool(training, problem.scans)
    model = end_to_end(
        problem.task,
        training,
        initialisation=cell.initialisation,
        steps=steps,
        seed=cell.seed,
        lr=lr,
        weight_decay=weight_decay,
    )
    stops = rungs(steps, training.search)
    fitted, held_out = ([problem.train_subjects[row] for row in part] for part in rows)
    fitted_targets, held_out_targets = map(problem.train.take, rows)
    for step in model.train(pool, fitted, fitted_targets):
        if step in stops:
            loss = model.loss(pool, held_out, held_out_targets, fitted_on=fitted)
            yield {
                "steps": step,
                "loss": loss if math.isfinite(loss) else DIVERGED_LOSS,
                "seconds": time.perf_counter() - start,
                "done": step == steps,
            }


def validation_rows(context: SweepContext, cell: Cell) -> tuple[np.ndarray, np.ndarray] | None:
    """(training, validation) rows of the cell's training subjects, stratified; None where they are too few."""
    problem = context.problems[cell.task]
    task, train = problem.task, problem.train
    rows = label_subset(task, train, fraction=cell.fraction, seed=cell.seed)
    order = rows[stratified_order(task.strata(train.take(rows)), seed=cell.seed)]
    count = round(context.training.search.validation_fraction * len(rows))
    outside, inside = np.sort(order[:count]), np.sort(order[count:])
    if count < MIN_VALIDATION or not _informative(train.take(outside)):
        return None
    try:
        task.check(train.take(inside))
    except StageError:
        return None
    return inside, outside


def _informative(targets: Targets) -> bool:
    if targets.event_N is not None:
        return bool(targets.event_N.any())
    return len(np.unique(targets.value_N)) > 1


class _Commit(tune.Callback):
    """Writes a cell's choice when the last of its configurations has ended; see `settle` for those with errors."""

    def __init__(
        self,
        context: SweepContext,
        config: SearchConfig,
        on_tried: Tried | None,
        on_progress: Progress | None,
    ) -> None:
        self.context, self.config = context, config
        self.on_tried, self.on_progress = on_tried, on_progress
        self.ended: dict[Cell, list[Attempt | None]] = {}
        self.errors: dict[str, Any] = {}
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.problems: list[str] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.curves.setdefault(trial.trial_id, []).append((result["steps"], result["loss"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial, trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.errors[trial.trial_id] = trial

    def settle(self, ended: list[Ended], *, last: bool) -> list[Cell]:
        """Once all trials have ended: cells of which a configuration was lost with its process, for their search to be
        begun again; with `last` they choose among the others, as cells do where a configuration failed."""
        lost: dict[Cell, None] = {}
        for of_tune in ended:
            trial = self.errors.get(of_tune.trial_id)
            if trial is None:
                continue
            if of_tune.lost and not last:
                lost[Cell(**trial.config["cell"])] = None
            else:
                self._ended(trial, {"problem": "ended with an error"})
        return list(lost)

    def _ended(self, trial: Any, result: dict[str, Any]) -> None:
        cell, config = Cell(**trial.config["cell"]), trial.config
        if "problem" in result or "loss" not in result:
            self.problems.append(f"search in {cell.name}: {result.get('problem', 'ended without a result')}")
            found = None
        else:
            found = Attempt(
                config["number"],
                config["lr"],
                config["weight_decay"],
                result["steps"],
                result["loss"],
                result["seconds"],
            )
            if self.on_tried:
                tried = {name: config[name] for name in ("lr", "weight_decay")}
                self.on_tried(cell, found.number, tried, self.curves.get(trial.trial_id, []))
        self.ended.setdefault(cell, []).append(found)
        if self.on_progress:
            self.on_progress(1)
        if len(self.ended[cell]) == self.config.configurations:
            commit(self.context, cell, [a for a in self.ended[cell] if a is not None])


def commit(context: SweepContext, cell: Cell, attempts: list[Attempt]) -> None:
    """Choose the lowest validation loss among those trained longest, and write it with all that were tried."""
    if not attempts:
        return
    longest = max(attempt.steps for attempt in attempts)
    best = min((a for a in attempts if a.steps == longest), key=lambda a: (a.loss, a.number))
    chosen = Chosen(
        lr=best.lr,
        weight_decay=best.weight_decay,
        configurations=len(attempts),
        stopped=sum(attempt.steps < longest for attempt in attempts),
        seconds=sum(attempt.seconds for attempt in attempts),
    )
    context.write_chosen(cell, chosen, [asdict(a) for a in sorted(attempts, key=lambda a: a.number)])
