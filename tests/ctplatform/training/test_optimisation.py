"""Learning rate and momentum by step, and updates; their part in a run is tested with the loop."""

import math

import pytest
import torch

from ctplatform.errors import StageError
from ctplatform.training.model import build_model
from ctplatform.training.optimisation import Optimisation
from tests.ctplatform.training_world import recipe_with, small_atlas


def optimisation(*overrides: str, total_steps: int = 10) -> Optimisation:
    config = recipe_with(*overrides).pretrain
    return Optimisation(build_model(config, small_atlas()), config, run="run", total_steps=total_steps)


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero():
    found = optimisation("pretrain.lr=2", "pretrain.warmup_steps=4")
    rates = []
    for step in range(11):
        found.schedule(step)
        rates.append(found.lr)
    assert rates[:4] == pytest.approx([0.5, 1, 1.5, 2])
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * k / 6) for k in range(7)])


def test_without_a_schedule_the_momentum_stays():
    found = optimisation("pretrain.momentum=0.9")
    found.schedule(7)
    assert found.model.momentum == 0.9


def test_a_step_goes_down_and_old_gradients_do_not_add_up():
    found = optimisation("pretrain.optimizer=sgd", "pretrain.sgd_momentum=0", "pretrain.weight_decay=0")
    weight = next(p for p in found.model.parameters() if p.requires_grad)
    found.schedule(0)
    for step in range(2):
        before = weight.detach().clone()
        found.descend((weight * 3).sum(), step)
        torch.testing.assert_close(weight.detach(), before - found.lr * 3)


def test_what_is_not_finite_changes_no_weight():
    found = optimisation()
    weight = next(p for p in found.model.parameters() if p.requires_grad)
    before = weight.detach().clone()
    with pytest.raises(StageError, match="run diverged at step 6"):
        found.descend((weight * torch.inf).sum(), 5)
    assert torch.equal(weight, before)
