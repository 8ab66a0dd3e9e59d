"""Schedules and parameter groups."""

import math

import pytest
import torch

from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder
from drasclr.optimisation import momentum_at, parameter_groups


def test_momentum_runs_from_start_to_end_on_a_cosine():
    values = [momentum_at(step, 100, start=0.9, end=0.999) for step in range(101)]
    assert values[0] == pytest.approx(0.9)
    assert values[-1] == pytest.approx(0.999)
    assert values[50] == pytest.approx((0.9 + 0.999) / 2)
    assert values == sorted(values)
    # As BYOL writes it, where the end is 1.
    for step in (0, 13, 64):
        published = 1 - (1 - 0.996) * (math.cos(math.pi * step / 100) + 1) / 2
        assert momentum_at(step, 100, start=0.996, end=1.0) == pytest.approx(published, abs=1e-15)


def test_no_schedule_is_the_constant_to_the_bit():
    assert {momentum_at(step, 7, start=0.999, end=0.999) for step in range(8)} == {0.999}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10, 0.9, 1.0), "step -1"),
        ((11, 10, 0.9, 1.0), "step 11 is not between 0 and the 10 steps"),
        ((0, 10, 1.1, 1.0), "start is between 0 and 1, not 1.1"),
        ((0, 10, 0.9, -0.1), "end is between 0 and 1, not -0.1"),
    ],
)
def test_a_momentum_that_cannot_be_is_refused(arguments, message):
    step, total, start, end = arguments
    with pytest.raises(ValueError, match=message):
        momentum_at(step, total, start=start, end=end)


def test_the_momentum_set_before_a_step_is_the_one_applied():
    torch.manual_seed(0)
    model = DrasCLR(
        encoder=Encoder(1, "none", norm="group"),
        coordinates_N3=torch.rand(3, 3),
        neighbours_NK=torch.empty(3, 0, dtype=torch.long),
        queue_size=2,
    )
    with torch.no_grad():
        model.query.head[0].bias.fill_(1.0)
        model.key.head[0].bias.fill_(0.0)
    model.momentum = momentum_at(5, 10, start=0.5, end=0.75)
    patches = torch.rand(1, 2, 1, 32, 32, 32)
    model(patches, patches, None, torch.tensor([1]), torch.arange(2))
    torch.testing.assert_close(model.key.head[0].bias, torch.full((128,), 1 - 0.625))


def model() -> DrasCLR:
    return DrasCLR(
        encoder=Encoder(3),
        coordinates_N3=torch.rand(3, 3),
        neighbours_NK=torch.tensor([[1], [2], [0]]),
        queue_size=2,
        neighbour_aggregation="attention",
    )


@pytest.mark.parametrize("routing_lr", [0.1, 1.0, 10.0])
def test_groups_hold_each_trained_parameter_once(routing_lr):
    step = model()
    groups = parameter_groups(step, routing_lr=routing_lr)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in step.parameters() if parameter.requires_grad]
    assert sorted(found) == sorted(trained)
    if routing_lr == 1:
        assert found == trained
        assert len(groups) == 1
    else:
        names = {id(parameter): name for name, parameter in step.named_parameters()}
        routed = {names[id(parameter)] for parameter in groups[1]["params"]}
        assert routed == {
            f"query.layers.{layer}.conv.routing.{kind}" for layer in range(13) for kind in ("weight", "bias")
        }
        assert [group["lr_scale"] for group in groups] == [1.0, routing_lr]


def test_a_model_without_routing_has_one_group_and_frozen_parameters_none():
    assert len(parameter_groups(Encoder(1, "concat"), routing_lr=5.0)) == 1
    frozen = Encoder(2)
    frozen.layers[0].requires_grad_(False)
    kept = [id(p) for group in parameter_groups(frozen, routing_lr=5.0) for p in group["params"]]
    assert not {id(parameter) for parameter in frozen.layers[0].parameters()} & set(kept)
    with pytest.raises(ValueError, match="routing_lr is 0 or above"):
        parameter_groups(frozen, routing_lr=-1.0)


def test_the_routing_moves_by_its_own_rate():
    torch.manual_seed(0)
    encoder = Encoder(2, norm="group")
    optimizer = torch.optim.SGD(parameter_groups(encoder, routing_lr=4.0), lr=0.01)
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["lr_scale"]
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    encoder(torch.rand(2, 1, 32, 32, 32), torch.rand(2, 3)).square().sum().backward()
    optimizer.step()
    for name, parameter in encoder.named_parameters():
        if parameter.grad is not None:
            rate = 0.04 if "routing" in name else 0.01
            torch.testing.assert_close(parameter.detach(), before[name] - rate * parameter.grad)
    # The key travels with the optimiser's state.
    assert [group["lr_scale"] for group in optimizer.state_dict()["param_groups"]] == [1.0, 4.0]
