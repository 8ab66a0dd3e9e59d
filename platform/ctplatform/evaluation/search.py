"""Hyper-parameters of end-to-end trials, searched inside each cell of the grid and never on test subjects.

Part of a cell's own training subjects validates. Each cell has a scheduler of its own: ASHA over the whole grid would
stop the cells with few labels, which are what the experiment is about. The first configuration is the recipe's. What is
chosen is committed for each cell, `evaluation/<run>/searches/<cell>.json`; the cell's trial then trains with it on all
its training subjects.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import tune

from ctplatform.config.evaluation import SearchConfig
from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Cell, Chosen, Shared, label_subset, read_chosen, training_steps
from ctplatform.evaluation.models import end_to_end, patch_pool
from ctplatform.evaluation.schedulers import CellASHA, WithinCells, rungs
from ctplatform.metrics.stratification import stratified_order
from ctplatform.storage import layout
from ctplatform.storage.layout import EVALUATION
from ctplatform.tasks import get_task

if TYPE_CHECKING:
    from ctplatform.metrics.scores import Targets

LEAST_VALIDATION = 4  # subjects
HOPELESS = 1e9  # the loss of a configuration that diverged
Progress = Callable[[], None]
Tried = Callable[[Cell, int, Mapping[str, float], Sequence[tuple[int, float]]], None]


@dataclass(frozen=True)
class Attempt:
    """One configuration that was tried, and how far it got."""

    number: int
    lr: float
    weight_decay: float
    steps: int
    loss: float
    seconds: float


def missing_searches(shared: Shared, cells: list[Cell]) -> list[Cell]:
    """Cells whose search has not been committed, without those that are too small to search in."""
    return [
        cell
        for cell in cells
        if shared.searches(cell)
        and not read_chosen(shared, cell)
        and validation_rows(shared, cell) is not None
    ]


def search(
    shared: Shared,
    cells: list[Cell],
    recipe: Recipe,
    *,
    on_tried: Tried | None = None,
    on_progress: Progress | None = None,
) -> list[str]:
    """Search in these cells, several at a time; returns problems.

    Args:
        shared: problems and settings.
        cells: in which.
        recipe: `sweep.search` says how.
        on_tried: called with cell, number, values and (step, loss) pairs of each configuration that has ended.
        on_progress: called after each.
    """
    config = recipe.sweep.search
    commit = _Commit(shared, config, on_tried, on_progress)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(SearchTrial, shared=shared),
            {
                "cpu": recipe.sweep.cpus_per_trial,
                "gpu": recipe.sweep.gpus_per_trial,
                **recipe.placement.sweep.resources,
            },
        ),
        tune_config=tune.TuneConfig(
            search_alg=WithinCells(shared, cells, config, width=recipe.sweep.max_concurrent),
            scheduler=CellASHA(shared, config),
            num_samples=config.configurations * len(cells),
            max_concurrent_trials=recipe.sweep.max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['number']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=shared.workspace.path(EVALUATION, shared.run),
            storage_filesystem=None if shared.workspace.is_local else shared.workspace.fs,
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[commit],
            verbose=0,
        ),
    )
    tuner.fit()
    return commit.problems


class SearchTrial(tune.Trainable):
    """One configuration in one cell; a step of Tune's is the way to the next rung. The worker keeps its patches."""

    def setup(self, config: dict[str, Any], shared: Shared) -> None:  # type: ignore[override]  # as with_parameters calls
        self.shared = shared
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.attempt = attempt(
            self.shared, Cell(**config["cell"]), lr=config["lr"], weight_decay=config["weight_decay"]
        )

    def step(self) -> dict[str, Any]:
        try:
            return next(self.attempt)
        except StageError as error:  # of the data: trying again would not help
            return {"problem": str(error), "steps": 0, "loss": HOPELESS, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is kept: a search that is cut off begins again in the cells that it had not finished."""

    def load_checkpoint(self, checkpoint: dict | None) -> None:
        """See `save_checkpoint`."""


def attempt(shared: Shared, cell: Cell, *, lr: float, weight_decay: float) -> Iterator[dict[str, Any]]:
    """Train with these values on a part of the cell's training subjects; yields the loss of the others at each rung."""
    start = time.perf_counter()
    problem, rows = shared.problems[cell.task], validation_rows(shared, cell)
    assert rows is not None
    steps = training_steps(shared.scratch, len(problem.train))
    pool = patch_pool(shared)
    model = end_to_end(shared, cell, steps=steps, lr=lr, weight_decay=weight_decay)
    stops = rungs(steps, shared.search)
    subjects = [[problem.train_subjects[row] for row in side] for side in rows]
    targets = [problem.train.take(side) for side in rows]
    for step in model.train(pool, subjects[0], targets[0]):
        if step in stops:
            loss = model.loss(pool, subjects[1], targets[1], fitted_on=subjects[0])
            yield {
                "steps": step,
                "loss": loss if math.isfinite(loss) else HOPELESS,
                "seconds": time.perf_counter() - start,
                "done": step == steps,
            }


def validation_rows(shared: Shared, cell: Cell) -> tuple[np.ndarray, np.ndarray] | None:
    """(training, validation) rows of the cell's training subjects, stratified; None where they are too few."""
    task, train = get_task(cell.task), shared.problems[cell.task].train
    rows = label_subset(task, train, fraction=cell.fraction, seed=cell.seed)
    order = rows[stratified_order(task.strata(train.take(rows)), seed=cell.seed)]
    count = round(shared.search.validation_fraction * len(rows))
    outside, inside = np.sort(order[:count]), np.sort(order[count:])
    if count < LEAST_VALIDATION or not _informative(train.take(outside)):
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
    """Writes a cell's choice when the last of its configurations has ended."""

    def __init__(
        self, shared: Shared, config: SearchConfig, on_tried: Tried | None, on_progress: Progress | None
    ) -> None:
        self.shared, self.config = shared, config
        self.on_tried, self.on_progress = on_tried, on_progress
        self.ended: dict[Cell, list[Attempt | None]] = {}
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.problems: list[str] = []

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self.curves.setdefault(trial.trial_id, []).append((result["steps"], result["loss"]))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._ended(trial, trial.last_result)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._ended(trial, {"problem": "ended with an error"})

    def _ended(self, trial: Any, result: dict[str, Any]) -> None:
        cell, config = Cell(**trial.config["cell"]), trial.config
        if "problem" in result or "loss" not in result:
            self.problems.append(f"search in {cell.name}: {result.get('problem', 'ended without a result')}")
            found = None
        else:
            values = (
                config["lr"],
                config["weight_decay"],
                result["steps"],
                result["loss"],
                result["seconds"],
            )
            found = Attempt(config["number"], *values)
            if self.on_tried:
                tried = {name: config[name] for name in ("lr", "weight_decay")}
                self.on_tried(cell, found.number, tried, self.curves.get(trial.trial_id, []))
        self.ended.setdefault(cell, []).append(found)
        if self.on_progress:
            self.on_progress()
        if len(self.ended[cell]) == self.config.configurations:
            commit(self.shared, cell, [a for a in self.ended[cell] if a is not None])


def commit(shared: Shared, cell: Cell, attempts: list[Attempt]) -> None:
    """Choose the lowest validation loss among those that were trained longest, and write it with all that was tried."""
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
    record = {
        "fingerprint": shared.fingerprint(cell),
        "chosen": asdict(chosen),
        "attempts": [asdict(a) for a in sorted(attempts, key=lambda a: a.number)],
    }
    shared.workspace.write_bytes(json.dumps(record, indent=1).encode(), *layout.search(shared.run, cell.name))
