"""A convolution of one sample is the one of several."""

import pytest
import torch
import torch.nn.functional as F

from drasclr.convolution import convolve


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_equals_the_plain_convolution(dtype, stride, count):
    torch.manual_seed(0)
    x = torch.randn(count, 8, 8, 8, 4, dtype=dtype).permute(0, 4, 1, 2, 3)
    kernel = torch.randn(6, 3, 3, 3, 4, dtype=dtype).permute(0, 4, 1, 2, 3)
    bias = torch.randn(6, dtype=dtype)
    found = convolve(x, kernel, bias, stride)
    wanted = F.conv3d(x.double(), kernel.double(), bias.double(), stride, 1)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)


def test_without_onednn_the_result_is_the_same():
    torch.manual_seed(0)
    x, kernel = torch.randn(1, 4, 4, 4, 4), torch.randn(6, 4, 3, 3, 3)
    with torch.backends.mkldnn.flags(enabled=False):
        plain = convolve(x, kernel, None, 1)
    torch.testing.assert_close(convolve(x, kernel, None, 1), plain, rtol=0, atol=1e-4)
