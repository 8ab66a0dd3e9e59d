"""Passes that replace torch's own, against torch's own in double precision."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from drasclr import pointwise
from drasclr.encoder import channels_last


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


@pytest.mark.parametrize("count", [pointwise.FEW_VALUES, pointwise.FEW_VALUES + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaled_elu_is_elu_in_other_units(count, dtype):
    x = torch.linspace(-40, 5, count, dtype=dtype)
    x[:4] = torch.tensor([math.inf, -math.inf, math.nan, 0.0])
    wanted = F.elu(x.double()) * pointwise.LOG2_E
    found = pointwise.scaled_elu_((x * pointwise.LOG2_E)[None])[0]
    assert found.dtype == dtype
    torch.testing.assert_close(
        pointwise.scaled_elu_((x * pointwise.LOG2_E).repeat(3, 1))[1], found, rtol=0, atol=0, equal_nan=True
    )
    error = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(found.double(), wanted, rtol=error, atol=error, equal_nan=True)


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
