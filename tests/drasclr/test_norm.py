"""Normalisation with ELU against the two modules of torch, and the recalibration of running statistics."""

import copy

import pytest
import torch
from torch import nn

from drasclr.condconv import Groups
from drasclr.encoder import Encoder, channels_last
from drasclr.norm import GroupNormELU, NormELU, recalibrate


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("training", [True, False])
def test_norm_elu_is_batch_norm_then_elu(layout, training):
    torch.manual_seed(0)
    ours, theirs = NormELU(6), nn.Sequential(nn.BatchNorm3d(6), nn.ELU()).double()
    with torch.no_grad():
        ours.weight.uniform_(0.5, 1.5), ours.bias.uniform_(-0.5, 0.5)
        ours.running_mean.uniform_(-1, 1), ours.running_var.uniform_(0.5, 2)
    theirs[0].load_state_dict(ours.state_dict())
    ours.train(training), theirs.train(training)
    # Far from 0, where a naive sum in single precision would be off.
    x = 30 + torch.randn(4, 6, 16, 16, 16)
    given = channels_last(x) if layout == "channels last" else x
    torch.testing.assert_close(ours(given.clone()).double(), theirs(x.double()), rtol=0, atol=1e-4)
    for name, value in theirs[0].state_dict().items():
        torch.testing.assert_close(
            ours.state_dict()[name].double(), value.double(), rtol=1e-5, atol=1e-5, msg=name
        )


def test_tracked_statistics_are_those_that_a_forward_pass_leaves():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 5, 5) * 2 + 1
    for momentum in (0.1, None):
        passed, tracked = NormELU(4), NormELU(4)
        passed.momentum = tracked.momentum = momentum
        for part in (x, x * 3):
            passed(part.clone())
            mean, variance = part.mean((0, 2, 3, 4)), part.var((0, 2, 3, 4), unbiased=False)
            tracked.track(mean, variance, count=part[:, 0].numel())
        for name, value in passed.state_dict().items():
            torch.testing.assert_close(tracked.state_dict()[name], value, rtol=1e-5, atol=1e-5, msg=name)
    with pytest.raises(ValueError, match="more than one patch"):
        tracked.track(mean, variance, count=1)


def test_group_norm_elu_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    norm = GroupNormELU(16)
    x = torch.randn(3, 16, 4, 4, 4)
    together = norm(x.clone())
    torch.testing.assert_close(together[1:2], norm(x[1:2].clone()), rtol=0, atol=1e-6)
    wanted = torch.nn.functional.elu(torch.nn.functional.group_norm(x, 8))
    torch.testing.assert_close(together, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_recalibrated_statistics_are_the_mean_over_the_batches(training):
    torch.manual_seed(0)
    encoder = Encoder(2).train(training)
    parameters = copy.deepcopy(dict(encoder.named_parameters()))
    batches = [(torch.rand(3, 1, 32, 32, 32) + level, torch.rand(3, 3)) for level in (0.0, 1.0)]
    recalibrate(encoder, batches)
    assert encoder.training == training
    first = encoder.layers[0]
    assert first.norm.momentum == pytest.approx(0.1)
    with torch.no_grad():
        outputs = [first.conv(x, at, Groups((1,) * len(x))) for x, at in batches]
    means = torch.stack([y.mean((0, 2, 3, 4)) for y in outputs]).mean(0)
    variances = torch.stack([y.var((0, 2, 3, 4)) for y in outputs]).mean(0)
    torch.testing.assert_close(first.norm.running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.norm.running_var, variances, rtol=1e-4, atol=1e-5)
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, parameters[name])
