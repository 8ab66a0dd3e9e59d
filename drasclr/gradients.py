"""Gradients of a 3 x 3 x 3 convolution with padding 1 on a CPU, channels last.

On processors without AVX-512, oneDNN forms the gradient of the kernel at 5 to 35 GFLOP/s, where its forward pass
reaches 100: on small grids it visits mostly padding, and it works a sample at a time. There three matrix products over
all samples of a part, one for each plane of the kernel, are up to seven times faster. With AVX-512 it reaches 110 to
250 GFLOP/s on sides of 4 and more, matrix products 70 to 130, and only the smallest grid is left to them.

Few channels leave most of a vector register empty on any processor. The first two layers, which have one and eight, are
where most voxels are: their slow gradients, the first one's of the kernel and the second one's of the input, are
arranged as convolutions with more channels, which take half the time.

Legend: B samples, C channels, DHW space, o of the output.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest side of the input for which matrix products win. Fixed by the processor, not measured at start: two runs on
# one machine must round alike.
SMALL_SIDE = 2 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
# Largest number of input channels for which the gradient of a strided convolution's input is better put together from
# the eight parities of its voxels.
FEW_CHANNELS = 8
# [parity, tap of a 2 x 2 x 2 kernel] -> tap of the 3 x 3 x 3 kernel, 27 for none. Along an axis, input voxel 2 o meets
# tap 1 of output voxel o; input voxel 2 o + 1 meets tap 2 of output voxel o and tap 0 of o + 1.
_AXIS = ((1, None), (2, 0))
_PARITY_TAPS = torch.tensor(
    [
        [
            27 if d is None or h is None or w is None else 9 * d + 3 * h + w
            for d, h, w in itertools.product(*(_AXIS[parity] for parity in parities))
        ]
        for parities in itertools.product((0, 1), repeat=3)
    ]
)


def convolution(
    grad_y: Tensor, x_BCDHW: Tensor, kernel: Tensor, stride: int, *, input_too: bool
) -> tuple[Tensor | None, Tensor]:
    """(gradient of the input or None, gradient of the kernel) of conv3d(x, kernel, stride=stride, padding=1)."""
    channels, sides = x_BCDHW.shape[1], x_BCDHW.shape[2:]
    grad_x, grad_kernel = None, None
    if max(sides) <= SMALL_SIDE:
        grad_kernel = of_kernel(grad_y, x_BCDHW, stride)
    elif channels == 1 and stride == 1 and sides[2] % 2 == 0:
        grad_kernel = of_kernel_in_pairs(grad_y, x_BCDHW)
    if input_too and stride == 2 and channels <= FEW_CHANNELS and all(side % 2 == 0 for side in sides):
        grad_x = of_input_by_parity(grad_y, kernel)
    if input_too and grad_x is None:
        if grad_kernel is None:
            return _native(grad_y, x_BCDHW, kernel, stride, [True, True])
        grad_x, _ = _native(grad_y, x_BCDHW, kernel, stride, [True, False])
    elif grad_kernel is None:
        _, grad_kernel = _native(grad_y, x_BCDHW, kernel, stride, [False, True])
    return grad_x, grad_kernel


def _native(
    grad_y: Tensor, x_BCDHW: Tensor, kernel: Tensor, stride: int, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """torch's gradients of input and kernel; None for what is not wanted."""
    grad_x, grad_kernel, _ = torch.ops.aten.convolution_backward(
        grad_y, x_BCDHW, kernel, None, [stride] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1, [*wanted, False]
    )
    return grad_x, grad_kernel


def of_input_by_parity(grad_y: Tensor, kernel: Tensor) -> Tensor:
    """Gradient of the input, [B, C, 2 D, 2 H, 2 W], at stride 2: one 2 x 2 x 2 convolution of the gradient.

    Voxels of each of the eight parities make channels of their own, which are then put in their places.
    """
    channels_out, channels = kernel.shape[:2]
    taps = F.pad(kernel.transpose(0, 1).flatten(2), (0, 1))[..., _PARITY_TAPS]  # [C, Co, parity, tap]
    stacked = taps.permute(2, 0, 1, 3).reshape(8 * channels, channels_out, 2, 2, 2)
    padded = F.pad(grad_y.permute(0, 2, 3, 4, 1), (0, 0, 0, 1, 0, 1, 0, 1)).permute(0, 4, 1, 2, 3)
    fine = F.conv3d(padded, stacked.contiguous(memory_format=torch.channels_last_3d)).permute(0, 2, 3, 4, 1)
    batch, depth, height, width, _ = fine.shape
    grad_x = fine.new_empty(batch, depth, 2, height, 2, width, 2 * channels)
    grad_x.copy_(fine.view(batch, depth, height, width, 2, 2, 2 * channels).permute(0, 1, 4, 2, 5, 3, 6))
    return grad_x.view(batch, 2 * depth, 2 * height, 2 * width, channels).permute(0, 4, 1, 2, 3)


def of_kernel_in_pairs(grad_y: Tensor, x_BCDHW: Tensor) -> Tensor:
    """Gradient of the kernel, [Co, 1, 3, 3, 3], of one input channel at stride 1.

    Two neighbouring columns are taken for channels of one, which costs twice the operations, half of them on zeros, at
    more than four times the rate. Channels last, that is another view of the same memory.
    """
    channels = grad_y.shape[1]
    paired_x, paired_grad = _pairs(x_BCDHW), _pairs(grad_y)
    shape = paired_x.new_empty(2 * channels, 2, 3, 3, 3)
    _, paired = _native(paired_grad, paired_x, shape, 1, [False, True])
    taps = paired.view(2, channels, 2, 3, 3, 3)  # [column out, Co, column in, D, H, pair]
    grads = []
    for offset in (-1, 0, 1):
        # Column out + offset lies in pair 1 + q, r-th of it.
        (q0, r0), (q1, r1) = divmod(offset, 2), divmod(1 + offset, 2)
        grads.append(taps[0, :, r0, :, :, 1 + q0] + taps[1, :, r1, :, :, 1 + q1])
    return torch.stack(grads, dim=-1)[:, None]


def _pairs(x_BCDHW: Tensor) -> Tensor:
    """[B, 2 C, D, H, W / 2]: neighbouring columns as channels, the first column's first."""
    x_BDHWC = x_BCDHW.permute(0, 2, 3, 4, 1)
    batch, depth, height, width, channels = x_BDHWC.shape
    return x_BDHWC.reshape(batch, depth, height, width // 2, 2 * channels).permute(0, 4, 1, 2, 3)


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
