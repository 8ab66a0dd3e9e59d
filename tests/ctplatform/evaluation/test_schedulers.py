"""Configurations of a cell, and early stopping within it."""

import numpy as np
import pytest

from ctplatform.evaluation.schedulers import CellASHA, configurations, optuna_search, rungs
from tests.ctplatform.evaluation.search_world import FEW, FULL


def test_the_first_configuration_is_the_recipes_and_the_others_are_the_same_each_time(search_world):
    context = search_world[2]
    found = configurations(context, FULL)
    assert found[0] == {"lr": 3e-3, "weight_decay": context.training.scratch.weight_decay}
    assert found == configurations(context, FULL)
    assert found[1:] != configurations(context, FEW)[1:]
    assert all(3e-5 <= values["lr"] <= 9e-3 for values in found)


@pytest.mark.parametrize(("steps", "expected"), [(100, (10, 30, 90, 100)), (6, (1, 3, 6)), (1, (1,))])
def test_rungs(search_world, steps, expected):
    assert rungs(steps, search_world[2].training.search) == expected


class FakeTrial:
    """What a scheduler looks at."""

    def __init__(self, cell, number):
        self.trial_id, self.config = f"{cell.name}-{number}", {"cell": vars(cell), "number": number}


def test_a_cell_is_never_stopped_for_another_cells_better_loss(search_world):
    """All losses of one cell are worse than all of the other: within each, still only the worse ones are stopped."""
    context = search_world[2]
    scheduler = CellASHA(context, context.training.search)
    decisions = {}
    for cell, base in ((FULL, 0.0), (FEW, 100.0)):
        for number, loss in enumerate((0.1, 0.2, 0.3)):
            trial = FakeTrial(cell, number)
            scheduler.on_trial_add(None, trial)
            decisions[cell, number] = scheduler.on_trial_result(
                None, trial, {"steps": 1, "loss": base + loss}
            )
    assert [decisions[FULL, n] for n in range(3)] == [decisions[FEW, n] for n in range(3)]
    assert decisions[FEW, 0] == "CONTINUE"
    assert decisions[FEW, 2] == "STOP"


def test_optuna_gets_better_than_chance_in_one_cell(search_world):
    pytest.importorskip("optuna", reason="an extra: pip install 'drasclr[optuna]'")
    context = search_world[2]

    def loss(values):
        return abs(np.log(values["lr"] / 3e-4))

    inner = optuna_search(context, FULL)
    tried = []
    for number in range(40):
        values = inner.suggest(f"t{number}")
        tried.append(loss(values))
        inner.on_trial_complete(f"t{number}", {"loss": tried[-1]})
    assert tried[0] == pytest.approx(loss({"lr": 3e-3}))  # the recipe's first
    # Against a blind draw from the same range, uniform in the logarithm.
    blind = np.exp(np.random.default_rng(0).uniform(np.log(3e-5), np.log(9e-3), 1000))
    assert np.mean(tried[20:]) < 0.7 * np.mean([loss({"lr": lr}) for lr in blind])
