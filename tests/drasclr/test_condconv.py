"""The conditioned convolution: kernels of locations, their start, and the layouts that it works in."""

import math

import pytest
import torch
import torch.nn.functional as F

from drasclr import monitor
from drasclr.condconv import ConditionedConv3d, Groups
from drasclr.encoder import Encoder


def grid() -> torch.Tensor:
    axis = torch.linspace(-1, 1, 5)
    return torch.cartesian_prod(axis, axis, axis)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("counts", [(5,), (1, 1, 1), (3, 1, 2)])
def test_each_sample_is_convolved_with_the_kernel_of_its_location(stride, counts):
    torch.manual_seed(0)
    conv = ConditionedConv3d(4, 6, experts=3, stride=stride).double()
    locations = torch.rand(len(counts), 3, dtype=torch.float64)
    x = torch.rand(sum(counts), 4, 8, 8, 8, dtype=torch.float64)
    found = conv(x, locations, Groups(counts))
    wanted = []
    for sample, place in zip(
        x, torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)), strict=True
    ):
        routing = torch.sigmoid(conv.routing.weight @ locations[place] + conv.routing.bias)
        kernel = sum(r * w for r, w in zip(routing, conv.weight, strict=True)).permute(0, 4, 1, 2, 3)
        wanted.append(F.conv3d(sample[None], kernel, conv.bias, stride, 1))
    torch.testing.assert_close(found, torch.cat(wanted), rtol=0, atol=1e-12)


@pytest.mark.parametrize("experts", [1, 4, 16])
def test_a_mixed_kernel_starts_as_wide_as_an_ordinary_one(experts):
    torch.manual_seed(0)
    conv = ConditionedConv3d(32, 64, experts=experts)
    kernels = conv.kernels(torch.zeros(1, 3))
    ordinary = torch.nn.Conv3d(32, 64, 3).weight
    assert kernels.std().item() == pytest.approx(ordinary.std().item(), rel=0.25)


def test_routing_gain_changes_the_initial_routing_and_no_other_number():
    encoders = []
    for gain in (None, 1.0, 6.0):
        torch.manual_seed(3)
        encoders.append(Encoder(4) if gain is None else Encoder(4, routing_gain=gain))
    plain, one, six = (encoder.state_dict() for encoder in encoders)
    for name, value in plain.items():
        assert torch.equal(value, one[name])
        wanted = value * 6 if name.endswith("routing.weight") else value
        assert torch.equal(six[name], wanted), name


def test_routing_gain_lets_locations_start_with_different_experts():
    entropies = []
    for gain in (1.0, 4.0, 8.0):
        torch.manual_seed(0)
        entropies.append(monitor.expert_entropy(Encoder(8, routing_gain=gain), grid()).item())
    assert entropies[0] > 0.98
    assert 0.88 < entropies[1] < 0.94
    assert entropies[2] < 0.85


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="routing_gain is above 0, not 0"):
        Encoder(2, routing_gain=0)
    with pytest.raises(ValueError, match="without routing there is one kernel, not 2"):
        ConditionedConv3d(1, 1, experts=2, routed=False)


def test_routing_weights_lie_between_0_and_1_and_an_unrouted_kernel_ignores_the_location():
    conv = ConditionedConv3d(2, 3, experts=5)
    route = conv.route(grid() * 10)
    assert route.shape == (125, 5)
    assert ((route > 0) & (route < 1)).all()
    assert not math.isclose(route.sum(1).min().item(), route.sum(1).max().item())
    plain = ConditionedConv3d(2, 3, experts=1, routed=False)
    assert torch.equal(plain.route(grid()), torch.ones(125, 1))
    assert plain.kernels(grid()).shape == (1, 3, 2, 3, 3, 3)
