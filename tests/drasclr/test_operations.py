"""The formula that the cost of a training is computed with counts what torch counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import training_cost as cost
from tests.published import SlowEncoder

SAMPLES = 3


def counted(*, backward: bool) -> int:
    """Operations of convolutions and matrix products, a patch, by torch's counter over the published computation."""
    encoder, patches = SlowEncoder(experts=1), torch.rand(SAMPLES, 1, 32, 32, 32)
    locations = torch.zeros(SAMPLES, 3)
    with FlopCounterMode(display=False) as counter:
        projections, _ = encoder(patches, locations)
        if backward:
            projections.sum().backward()
    totals = counter.get_flop_counts()["Global"]
    return sum(totals.values())


def routing(layers: int) -> int:
    """What the counter sees of mixing kernels, a forward pass of a patch: Linear(3 -> 1) of each layer."""
    return layers * 2 * 3


def test_the_formula_of_a_forward_pass_is_what_torch_counts():
    found = counted(backward=False) / SAMPLES
    assert found == cost.forward_flops() + routing(len(cost.LAYERS))


def test_the_formula_of_a_backward_pass_is_what_torch_counts():
    both = counted(backward=True) / SAMPLES
    expected = cost.forward_flops() + cost.backward_flops()
    assert both == pytest.approx(expected, rel=2e-3)


def test_what_the_published_training_is():
    assert cost.anchors() == 9179 * 581 * 20
    assert cost.anchor_flops() > 9 * cost.forward_flops()
    assert cost.anchor_bytes(4) == 2 * cost.anchor_bytes(2)
