"""A training loop in one process: resumed == uninterrupted, schedules, clipping, and what it does when it diverges."""

from __future__ import annotations

import math

import pytest
import torch

from ctplatform.errors import StageError
from ctplatform.training.loop import Loop
from ctplatform.training.model import build_model
from tests.ctplatform.training_world import recipe_with, run_loop, training_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return training_workspace(tmp_path_factory.mktemp("loop"))


def test_resumed_is_uninterrupted(workspace):
    recipe = recipe_with("pretrain.encoder.norm=batch", "pretrain.encoder.experts=8")
    whole = run_loop(workspace, recipe, "whole")
    run_loop(workspace, recipe, "cut", stop_at=4)
    resumed = run_loop(workspace, recipe, "cut")
    assert whole.step == resumed.step == 6
    curve = [line["loss"] for line in whole.log.lines]
    assert len(curve) == 6
    assert [line["loss"] for line in resumed.log.lines] == curve
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    a, b = whole.model.memory.state_dict(), resumed.model.memory.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])), key


def test_a_batch_seen_again_and_again_is_learnt(workspace):
    recipe = recipe_with(
        "pretrain.encoder.norm=batch",
        "pretrain.encoder.experts=8",
        "pretrain.augment=false",
        "pretrain.optimizer=adamw",
        "pretrain.lr=0.0005",
        "pretrain.temperature=0.2",
        "pretrain.momentum=0",
        "pretrain.max_steps=1000",
        "pretrain.epochs=1000",
    )
    loop = Loop(workspace, recipe, "test", rank=0, world=1, device=torch.device("cpu"))
    batch = next(loop.feed.epoch(0))
    losses = []
    for _ in range(16):
        loop.model.memory.load_state_dict(build_model(recipe.pretrain, loop.atlas).memory.state_dict())
        losses.append(float(loop.train_step(batch).loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_momentum_follows_its_schedule_and_groups_their_rates(workspace):
    recipe = recipe_with(
        "pretrain.momentum=0.5", "pretrain.momentum_end=1", "pretrain.max_steps=4", "pretrain.routing_lr=10"
    )
    loop = Loop(workspace, recipe, "schedule", rank=0, world=1, device=torch.device("cpu"))
    momenta, rates = [], []
    for batch in loop.feed.epoch(0):
        loop.train_step(batch)
        loop.step += 1
        momenta.append(loop.model.momentum)
        rates.append([group["lr"] for group in loop.optimisation.optimizer.param_groups])
        if loop.step == 4:
            break
    assert momenta == pytest.approx([1 - 0.5 * (math.cos(math.pi * step / 4) + 1) / 2 for step in range(4)])
    assert all(routed == pytest.approx(10 * other) for other, routed in rates)


def test_a_run_that_diverges_says_so_and_keeps_its_last_finite_checkpoint(workspace):
    """The gradient is checked before each step: neither weights nor checkpoints ever hold what is not finite."""
    recipe = recipe_with("pretrain.lr=0.01", "pretrain.max_steps=6", "pretrain.checkpoint_every=1")
    loop = Loop(workspace, recipe, "diverging", rank=0, world=1, device=torch.device("cpu"))

    def spoil(loop: Loop) -> None:
        if loop.step == 3:
            with torch.no_grad():
                next(loop.model.query.parameters()).mul_(1e30)

    with pytest.raises(StageError, match=r"diverged at step 4: .*Lower pretrain\.lr") as caught:
        loop.run(on_checkpoint=spoil)
    assert caught.value.code == "diverged"
    assert not workspace.exists("pretrain", "diverging", "weights.safetensors")
    again = Loop(workspace, recipe, "diverging", rank=0, world=1, device=torch.device("cpu"))
    again.resume()
    assert again.step == 3
    assert all(torch.isfinite(p).all() for p in again.model.parameters())


def test_gradients_are_clipped_to_their_norm(workspace):
    norms = {}
    for limit in ("null", "0.01"):
        recipe = recipe_with(f"pretrain.clip_norm={limit}")
        loop = Loop(workspace, recipe, f"clip-{limit}", rank=0, world=1, device=torch.device("cpu"))
        loop.train_step(next(loop.feed.epoch(0)))
        grads = [p.grad for p in loop.model.parameters() if p.grad is not None]
        norms[limit] = float(torch.nn.utils.get_total_norm(grads))
    assert norms["0.01"] == pytest.approx(0.01, rel=1e-3)
    assert norms["null"] > 0.02
