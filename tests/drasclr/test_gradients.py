"""Passes and products that replace torch's own, against torch's own in double precision."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from drasclr import gradients, pointwise
from drasclr.encoder import channels_last


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [2, 4, 8, 16])
@pytest.mark.parametrize(("channels_in", "channels_out"), [(1, 3), (4, 2)])
@pytest.mark.parametrize("input_too", [True, False])
def test_gradients_of_a_convolution(stride, side, channels_in, channels_out, input_too):
    torch.manual_seed(side)
    x = channels_last(torch.randn(3, channels_in, side, side, side, dtype=torch.float64)).requires_grad_()
    kernel = channels_last(torch.randn(channels_out, channels_in, 3, 3, 3, dtype=torch.float64))
    kernel.requires_grad_()
    y = F.conv3d(x, kernel, None, stride, 1)
    grad_y = channels_last(torch.randn_like(y))
    wanted_x, wanted_kernel = torch.autograd.grad(y, (x, kernel), grad_y)
    grad_x, grad_kernel = gradients.convolution(
        grad_y, x.detach(), kernel.detach(), stride, input_too=input_too
    )
    torch.testing.assert_close(grad_kernel, wanted_kernel, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        gradients.of_kernel(grad_y, x.detach(), stride), wanted_kernel, rtol=0, atol=1e-11
    )
    if input_too:
        torch.testing.assert_close(grad_x, wanted_x, rtol=0, atol=1e-11)
    else:
        assert grad_x is None


@pytest.mark.parametrize("sides", [(6, 4, 10), (5, 3, 8), (12, 16, 14)])
def test_gradients_arranged_for_few_channels(sides):
    torch.manual_seed(0)
    x = channels_last(torch.randn(2, 1, *sides, dtype=torch.float64))
    grad_y = channels_last(torch.randn(2, 5, *sides, dtype=torch.float64))
    wanted = torch.nn.grad.conv3d_weight(x, (5, 1, 3, 3, 3), grad_y, padding=1)
    torch.testing.assert_close(gradients.of_kernel_in_pairs(grad_y, x), wanted, rtol=0, atol=1e-11)

    kernel = torch.randn(5, 3, 3, 3, 3, dtype=torch.float64)
    shape = (2, 3, *(2 * side for side in sides))
    wanted = torch.nn.grad.conv3d_input(shape, kernel, grad_y, stride=2, padding=1)
    torch.testing.assert_close(gradients.of_input_by_parity(grad_y, kernel), wanted, rtol=0, atol=1e-11)


def test_elu_is_exact_to_rounding_and_keeps_what_is_no_number():
    x = torch.cat([torch.linspace(-120, 20, 100_001), torch.tensor([0.0, -0.0, 1e30, -1e30])])
    assert (pointwise.elu_(x.clone()).double() - F.elu(x.double())).abs()[:-2].max() < 1e-6
    near = torch.linspace(-20, 2, 100_001)
    assert (pointwise.elu_(near.clone()).double() - F.elu(near.double())).abs().max() < 1e-7
    wide = near.double()
    torch.testing.assert_close(pointwise.elu_(wide.clone()), F.elu(wide), rtol=0, atol=1e-15)
    special = pointwise.elu_(torch.tensor([math.inf, -math.inf, math.nan]))
    assert special[:2].tolist() == [math.inf, -1]
    assert special[2].isnan()


def test_normalisation_with_elu_and_its_gradient():
    torch.manual_seed(0)
    x = channels_last(torch.randn(3, 4, 6, 6, 6) * 2 + 5)
    weight, bias = torch.rand(4) + 0.5, torch.randn(4)
    mean, variance = pointwise.merge([pointwise.moments(part) for part in x.split([1, 2])], 4)
    norm = pointwise.Norm(mean, variance, weight, bias, 1e-5)
    exact, exact_weight, exact_bias = (t.double().requires_grad_() for t in (x, weight, bias))
    wanted = F.elu(F.batch_norm(exact, None, None, exact_weight, exact_bias, True, 0.0, 1e-5))
    y = pointwise.activate(x, norm.columns(6))
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=2e-6)
    grad_y = channels_last(torch.randn_like(x))
    wanted.backward(grad_y.double())
    grad = pointwise.through_elu_(grad_y, y)
    cut = zip(grad.split([1, 2]), x.split([1, 2]), y.split([1, 2]), strict=True)
    sums = [pointwise.sums(part, of_x, scratch=of_y) for part, of_x, of_y in cut]
    factors = pointwise.factors(norm, sums, count=pointwise.pixels(x), width=6)
    close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)
    close(pointwise.through_norm_(grad, x, factors).double(), exact.grad)
    close(factors.weight.double(), exact_weight.grad, atol=1e-3)
    close(factors.bias.double(), exact_bias.grad, atol=1e-3)
