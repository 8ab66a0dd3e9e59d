"""Products that replace torch's own gradients, against torch's own in double precision."""

import pytest
import torch
import torch.nn.functional as F

from drasclr import gradients
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
