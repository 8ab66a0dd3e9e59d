"""Which hyper-parameters a cell of the grid tries, and which of them are stopped early: each cell for itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ctplatform.config.evaluation import SearchConfig
from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Cell, Shared, training_steps
from ctplatform.evaluation.initialisations import FINETUNE


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
    """Asynchronous successive halving (Li et al., MLSys 2020), one for each cell."""

    def __init__(self, shared: Shared, config: SearchConfig) -> None:
        super().__init__()
        self.shared, self.config = shared, config
        self.of_cell: dict[Cell, ASHAScheduler] = {}

    def of(self, trial: Any) -> ASHAScheduler:
        """The scheduler of a trial's cell."""
        cell = Cell(**trial.config["cell"])
        if cell not in self.of_cell:
            steps = training_steps(self.shared.scratch, len(self.shared.problems[cell.task].train))
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

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        if "problem" in result:
            return TrialScheduler.STOP
        return self.of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        self.of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.of(trial).on_trial_remove(tune_controller, trial)


class WithinCells(Searcher):
    """Configurations of some cells. `width` cells advance side by side, so that a cell's next configuration mostly
    comes when the ones before it are known."""

    def __init__(self, shared: Shared, cells: list[Cell], config: SearchConfig, *, width: int) -> None:
        super().__init__(metric="loss", mode="min")
        self.shared, self.config = shared, config
        blocks = [cells[i : i + width] for i in range(0, len(cells), width)]
        self.queue = [
            (cell, number) for block in blocks for number in range(config.configurations) for cell in block
        ]
        self.place = 0
        self.inner: dict[Cell, Any] = {}
        self.cell_of: dict[str, Cell] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.place == len(self.queue):
            return Searcher.FINISHED
        cell, number = self.queue[self.place]
        self.place += 1
        self.cell_of[trial_id] = cell
        if self.config.algorithm == "optuna":
            if cell not in self.inner:
                self.inner[cell] = optuna_search(self.shared, cell)
            values = dict(self.inner[cell].suggest(trial_id))
        else:
            values = configurations(self.shared, cell)[number]
        return {"cell": asdict(cell), "number": number, **values}

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        if inner := self.inner.get(self.cell_of[trial_id]):
            inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        if inner := self.inner.get(self.cell_of[trial_id]):
            # A configuration that was stopped has the loss of its last rung, as Tune's own OptunaSearch has it.
            inner.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept: what is committed is what counts."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


def own_values(shared: Shared, cell: Cell) -> dict[str, float]:
    """The recipe's learning rate and weight decay."""
    config = shared.finetune if cell.initialisation == FINETUNE else shared.scratch
    return {"lr": config.lr, "weight_decay": config.weight_decay}


def _ranges(shared: Shared, cell: Cell) -> dict[str, tuple[float, float]]:
    own = own_values(shared, cell)["lr"]
    low, high = shared.search.lr_factor
    return {"lr": (own * low, own * high), "weight_decay": shared.search.weight_decay}


def configurations(shared: Shared, cell: Cell) -> list[dict[str, float]]:
    """The recipe's own values, then random ones, uniform in the logarithm; the same for the same cell."""
    digest = sum(byte << (8 * i) for i, byte in enumerate(cell.name.encode()))
    rng = np.random.default_rng(digest)
    drawn = [
        {name: float(np.exp(rng.uniform(*np.log(ends)))) for name, ends in _ranges(shared, cell).items()}
        for _ in range(shared.search.configurations - 1)
    ]
    return [own_values(shared, cell), *drawn]


def optuna_search(shared: Shared, cell: Cell) -> Any:
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
    ranges = _ranges(shared, cell)
    own = own_values(shared, cell)
    inside = {name: min(max(own[name], low), high) for name, (low, high) in ranges.items()}
    space: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(low, high, log=True)
        for name, (low, high) in ranges.items()
    }
    # Few configurations a cell: after four random ones the estimator has a word.
    sampler = optuna.samplers.TPESampler(seed=cell.seed, n_startup_trials=4)
    return OptunaSearch(space, metric="loss", mode="min", points_to_evaluate=[inside], sampler=sampler)
