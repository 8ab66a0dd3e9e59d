"""Configurations of hyper-parameters that a cell of the grid tries, and early stopping among them: within each cell."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ctplatform.config.evaluation import SearchConfig
from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.context import SweepContext


def rungs(steps: int, config: SearchConfig) -> tuple[int, ...]:
    """Steps at which a configuration may be stopped, each `reduction` times the one before, and the last step."""
    least = max(1, round(config.grace * steps))
    found = [steps]
    step = least
    while step < steps:
        found.append(step)
        step *= config.reduction
    return tuple(sorted(set(found)))


class CellASHA(FIFOScheduler):
    """Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934), one for each cell."""

    def __init__(self, context: SweepContext, config: SearchConfig) -> None:
        FIFOScheduler.__init__(self)
        self.context, self.config = context, config
        self.of_cell: dict[Cell, ASHAScheduler] = {}

    def of(self, trial: Any) -> ASHAScheduler:
        """The scheduler of a trial's cell."""
        cell = Cell(**trial.config["cell"])
        if cell not in self.of_cell:
            steps = self.context.training.steps(len(self.context.problems[cell.task].train))
            self.of_cell[cell] = ASHAScheduler(
                time_attr="steps",
                metric="loss",
                mode="min",
                max_t=steps,
                grace_period=rungs(steps, self.config)[0],
                reduction_factor=self.config.reduction,
            )
        return self.of_cell[cell]

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "problem" in result:
            return TrialScheduler.STOP
        return self.of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.of(trial).on_trial_remove(tune_controller, trial)


class WithinCells(Searcher):
    """Configurations of some cells.

    `width` cells advance side by side, so that the results of a cell's configurations are mostly there when its next
    one is drawn.
    """

    def __init__(self, context: SweepContext, cells: list[Cell], config: SearchConfig, *, width: int) -> None:
        super().__init__(metric="loss", mode="min")
        self.context, self.config = context, config
        blocks = [cells[i : i + width] for i in range(0, len(cells), width)]
        self.queue = [
            (cell, number) for block in blocks for number in range(config.configurations) for cell in block
        ]
        self.next = 0
        self.inner: dict[Cell, Any] = {}
        self.cell_of: dict[str, Cell] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.next == len(self.queue):
            return Searcher.FINISHED
        cell, number = self.queue[self.next]
        self.next += 1
        self.cell_of[trial_id] = cell
        if self.config.algorithm == "optuna":
            if cell not in self.inner:
                self.inner[cell] = optuna_search(self.context, cell)
            values = dict(self.inner[cell].suggest(trial_id))
        else:
            values = configurations(self.context, cell)[number]
        return {"cell": asdict(cell), "number": number, **values}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if inner := self.inner.get(self.cell_of[trial_id]):
            inner.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if inner := self.inner.get(self.cell_of[trial_id]):
            # A configuration that was stopped has the loss of its last rung, as with Tune's own OptunaSearch.
            inner.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing is saved: committed searches are found by `missing_searches`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


def own_values(context: SweepContext, cell: Cell) -> dict[str, float]:
    """The recipe's learning rate and weight decay."""
    config = context.training.config(cell.initialisation)
    return {"lr": config.lr, "weight_decay": config.weight_decay}


def _ranges(context: SweepContext, cell: Cell) -> dict[str, tuple[float, float]]:
    config, own = context.training.search, own_values(context, cell)["lr"]
    low, high = config.lr_factor
    return {"lr": (own * low, own * high), "weight_decay": config.weight_decay}


def configurations(context: SweepContext, cell: Cell) -> list[dict[str, float]]:
    """The recipe's own values, then random ones, uniform in the logarithm; the same for the same cell."""
    digest = sum(byte << (8 * i) for i, byte in enumerate(cell.name.encode()))
    rng = np.random.default_rng(digest)
    drawn = [
        {name: float(np.exp(rng.uniform(*np.log(ends)))) for name, ends in _ranges(context, cell).items()}
        for _ in range(context.training.search.configurations - 1)
    ]
    return [own_values(context, cell), *drawn]


def optuna_search(context: SweepContext, cell: Cell) -> Any:
    """Optuna's tree-structured Parzen estimator for one cell, the recipe's own values first.

    Raises:
        StageError: Optuna is not installed.
    """
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise StageError(
            "sweep.search.algorithm is optuna, which is not installed",
            "pip install 'drasclr[optuna]', or set sweep.search.algorithm=random",
            code="no-optuna",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = _ranges(context, cell)
    own = own_values(context, cell)
    inside = {name: min(max(own[name], low), high) for name, (low, high) in ranges.items()}
    space: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(low, high, log=True)
        for name, (low, high) in ranges.items()
    }
    # A cell has few configurations: the default of ten random ones would leave the estimator unused.
    sampler = optuna.samplers.TPESampler(seed=cell.seed, n_startup_trials=4)
    return OptunaSearch(space, metric="loss", mode="min", points_to_evaluate=[inside], sampler=sampler)
