"""Gradients of a 3 x 3 x 3 convolution with padding 1 on a CPU, channels last.

On processors without AVX-512, oneDNN forms the gradient of the kernel at 5 to 35 GFLOP/s, where its forward pass
reaches 100: on small grids it visits mostly padding, and it works a sample at a time. There three matrix products over
all samples of a part, one for each plane of the kernel, are up to seven times faster. With AVX-512 it reaches 110 to
250 GFLOP/s on sides of 4 and more, matrix products 70 to 130, and only the smallest grid is left to them.

Legend: B samples, C channels, DHW space, o of the output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest side of the input for which matrix products win. Fixed by the processor, not measured at start: two runs on
# one machine must round alike.
SMALL_SIDE = 2 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


def convolution(
    grad_y: Tensor, x_BCDHW: Tensor, kernel: Tensor, stride: int, *, input_too: bool
) -> tuple[Tensor | None, Tensor]:
    """(gradient of the input or None, gradient of the kernel) of conv3d(x, kernel, stride=stride, padding=1)."""
    small = max(x_BCDHW.shape[2:]) <= SMALL_SIDE
    grad_x, grad_kernel = None, None
    if input_too or not small:
        grad_x, grad_kernel, _ = torch.ops.aten.convolution_backward(
            grad_y, x_BCDHW, kernel, None, [stride] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1,
            [input_too, not small, False],
        )  # fmt: skip
    return grad_x, of_kernel(grad_y, x_BCDHW, stride) if grad_kernel is None else grad_kernel


def of_kernel(grad_y: Tensor, x_BCDHW: Tensor, stride: int) -> Tensor:
    """Gradient of the kernel, [Co, C, 3, 3, 3], by matrix products."""
    batch, channels, depth, height, width = x_BCDHW.shape
    planes, rows, columns = depth // stride, height // stride, width // stride
    padded = F.pad(x_BCDHW.permute(0, 2, 3, 4, 1), (0, 0, 1, 1, 1, 1))  # [B, D, H + 2, W + 2, C]
    step_B, step_D, step_H, step_W, _ = padded.stride()
    # The nine in-plane neighbours of every output column; depth outermost, so that a shift in depth is a slice.
    around = padded.as_strided(
        (depth, batch, rows, columns, 3, 3 * channels),
        (step_D, step_B, stride * step_H, stride * step_W, step_H, 1),
    ).reshape(depth, -1, 9 * channels)
    grads = grad_y.permute(2, 0, 3, 4, 1).reshape(planes, -1, grad_y.shape[1])
    taps = []
    for tap in range(3):
        # Output plane o meets input plane stride * o + tap - 1, where there is one.
        first = 1 if tap == 0 else 0
        start = stride * first + tap - 1
        inputs = around[start::stride][: planes - first]
        taps.append(grads[first : first + len(inputs)].flatten(0, 1).t() @ inputs.flatten(0, 1))
    stacked = torch.stack(taps, 1)  # [Co, kernel D, 9 C]
    return stacked.view(-1, 3, 3, 3, channels).permute(0, 4, 1, 2, 3)
