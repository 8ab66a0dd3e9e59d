"""The whole stack of convolutions in evaluation mode on a CPU.

The normalisation is folded into the kernels, and each part of the batch passes the whole stack while it stays in the
processor's cache. Where a location has few samples, mixing its kernels costs as much as convolving with them. So
kernels are mixed for several locations in one matrix product, into memory that is used again; small grids are
convolved as matrix products, which read these kernels as they are, where oneDNN brings them into another order for
every call; and in the last two layers, which hold more than half of all weights and whose grids are 2 x 2 x 2, the
outputs of all experts are mixed instead: they come from one matrix product over all samples.

Legend: B samples, G locations, E experts, C channels, DHW space; everything is channels-last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from drasclr import pointwise, trunk
from drasclr.convolution import PADDING, convolve

# Locations whose kernels are mixed in one product.
RUN = 16
# Of the last layers, outputs are mixed in place of kernels where a location has at most so many samples, on average,
# and enough locations share the cost of arranging the experts for it.
DENSE_LAYERS, FEW_SAMPLES, MANY_LOCATIONS = 2, 4, 32
# Samples of one product of the last layers.
DENSE_SAMPLES = 512
# Largest grid of a layer's output that is computed as a matrix product a location; locations at a time.
PRODUCT_PIXELS, PRODUCT_PLACES = 64, 2

# Called with the number of each layer and its activations, part by part.
Observe = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class FoldedLayer:
    """A convolution whose kernels and bias include the normalisation.

    Attributes:
        kernels: [K, Cout, 3, 3, 3, Cin]; experts where they are still to be mixed, else the kernels of all locations
            or the one kernel for all of them.
        routing_GE: weight of each expert at each location; None if there is nothing to mix.
        bias: [Cout], in units of ln 2.
        stride: 1 or 2.
    """

    kernels: Tensor
    routing_GE: Tensor | None
    bias: Tensor
    stride: int


def fold(
    experts: Tensor,
    routing_GE: Tensor | None,
    bias: Tensor,
    norm: pointwise.Norm,
    stride: int,
    *,
    first: bool = False,
) -> FoldedLayer:
    """A layer of the encoder, folded. All maps are in units of ln 2, see `pointwise.scaled_elu_`.

    Args:
        experts: [E, Cout, 3, 3, 3, Cin].
        routing_GE: weight of each expert at each location; None for one kernel without conditioning.
        bias: of the convolution, [Cout].
        norm: the running statistics and parameters of the normalisation.
        stride: of the convolution.
        first: the layer's input is a patch, which is not in these units.
    """
    if routing_GE is not None and len(routing_GE) <= len(experts):
        # No more locations than experts: fewer kernels are to be folded once they are mixed.
        experts, routing_GE = (routing_GE @ experts.flatten(1)).view(-1, *experts.shape[1:]), None
    scale = norm.weight * torch.rsqrt(norm.variance + norm.eps)
    kernel_scale = scale * pointwise.LOG2_E if first else scale
    folded = experts * kernel_scale[:, None, None, None, None]
    folded_bias = (bias - norm.mean) * scale + norm.bias
    return FoldedLayer(folded, routing_GE, folded_bias * pointwise.LOG2_E, stride)


@torch.no_grad()
def infer(
    x_BCDHW: Tensor, counts: Sequence[int], layers: Sequence[FoldedLayer], *, observe: Observe | None = None
) -> Tensor:
    """All layers, without gradients.

    Args:
        x_BCDHW: location-major batch, channels last.
        counts: samples of each location, in order.
        layers: from `fold`.
        observe: sees the activations of every layer; the parts of a layer come in the order of the batch.
    """
    pixels = x_BCDHW[0, 0].numel()
    few = len(counts) >= MANY_LOCATIONS and len(x_BCDHW) <= FEW_SAMPLES * len(counts)
    few = few and all(layer.routing_GE is not None for layer in layers)
    first_dense = len(layers) - DENSE_LAYERS if few else len(layers)
    first_product = first_dense
    if few and len(set(counts)) == 1:
        first_product = _first_product(layers[:first_dense], pixels)
    convolved = layers[:first_product]
    stages = _stages(convolved, pixels)
    samples = iter(torch.split(x_BCDHW, list(counts)))
    outputs = []
    memory = _memory(layers[:first_dense], first_product, min(RUN, len(counts)))
    for start in range(0, len(counts), RUN):
        run = slice(start, min(start + RUN, len(counts)))
        own = [_mixed(layers[number], run, memory[number]) for number in range(first_product)]
        places = zip(*own, strict=True)
        y = torch.cat([_convolved(next(samples), place, convolved, stages, observe) for place in places])
        for number in range(first_product, first_dense):
            kernels = _mixed(layers[number], run, memory[number])
            y = _activated(_product(y, kernels, layers[number]), number, observe)
        outputs.append(y)
    x = torch.cat(outputs)
    for number in range(first_dense, len(layers)):
        x = _activated(_dense(x, layers[number], torch.tensor(counts)), number, observe)
    return x * pointwise.LN_2


def _activated(y: Tensor, number: int, observe: Observe | None) -> Tensor:
    y = pointwise.scaled_elu_(y)
    if observe is not None:
        observe(number, y * pointwise.LN_2)
    return y


def _first_product(layers: Sequence[FoldedLayer], pixels: int) -> int:
    """The number of the first layer whose output has few pixels; sizes only fall."""
    sizes = itertools.accumulate(layers, lambda size, layer: size // layer.stride**3, initial=pixels)
    return sum(size > PRODUCT_PIXELS for size in itertools.islice(sizes, 1, None))


def _stages(layers: Sequence[FoldedLayer], pixels: int) -> list[tuple[int, list[int]]]:
    """(samples of a part, numbers of consecutive layers whose parts are of this size)."""
    sizes = []
    for layer in layers:
        channels_out, channels_in = layer.kernels.shape[1], layer.kernels.shape[-1]
        sizes.append(trunk.samples(channels_in, channels_out, pixels, layer.stride))
        pixels //= layer.stride**3
    return [
        (size, list(numbers)) for size, numbers in itertools.groupby(range(len(sizes)), sizes.__getitem__)
    ]


def _memory(layers: Sequence[FoldedLayer], first_product: int, places: int) -> list[Tensor]:
    """Memory for each layer's mixed kernels.

    A location passes all convolved layers before the next one does, so these have their own. The layers behind take all
    locations of a run at once and share theirs: it is still in the processor's cache when it is read.
    """
    sizes = [places * layer.kernels[0].numel() for layer in layers]
    empty = layers[0].kernels.new_empty
    shared = empty(max(sizes[first_product:], default=0))
    return [empty(size) if number < first_product else shared for number, size in enumerate(sizes)]


def _mixed(layer: FoldedLayer, run: slice, memory: Tensor) -> Tensor:
    """A layer's kernels [K, Cout, Cin, 3, 3, 3] of a run of K locations; they last until the memory is used again."""
    count = run.stop - run.start
    if layer.routing_GE is not None:
        mixed = memory[: count * layer.kernels[0].numel()].view(count, -1)
        torch.mm(layer.routing_GE[run], layer.kernels.flatten(1), out=mixed)
        kernels = mixed.view(count, *layer.kernels.shape[1:])
    elif len(layer.kernels) == 1:
        kernels = layer.kernels.expand(count, -1, -1, -1, -1, -1)
    else:
        kernels = layer.kernels[run]
    return kernels.permute(0, 1, 5, 2, 3, 4)


def _convolved(
    x: Tensor,
    kernels: Sequence[Tensor],
    layers: Sequence[FoldedLayer],
    stages: list[tuple[int, list[int]]],
    observe: Observe | None,
) -> Tensor:
    """The samples of one location behind all these layers; a part passes a whole stage before the next one starts."""
    parts = [x]
    for size, numbers in stages:
        outputs = []
        for part in trunk.regroup(parts, size):
            y = part
            for number in numbers:
                layer = layers[number]
                y = _activated(convolve(y, kernels[number], layer.bias, layer.stride), number, observe)
            outputs.append(y)
        parts = outputs
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _product(x_BCDHW: Tensor, kernels: Tensor, layer: FoldedLayer) -> Tensor:
    """A convolution of a small grid, the same number of samples at each location, as a matrix product a location.

    Args:
        x_BCDHW: location-major.
        kernels: [G, Cout, Cin, 3, 3, 3], from `_mixed`.
        layer: with the bias and the stride.
    """
    places, channels_out, channels_in = kernels.shape[:3]
    voxels_O27, sides = _windows(tuple(x_BCDHW.shape[2:]), layer.stride)
    matrices_GKC = kernels.permute(0, 3, 4, 5, 2, 1).reshape(places, -1, channels_out)
    # What lies outside of the grid is read from a row of zeros.
    rows_BIC = F.pad(x_BCDHW.permute(0, 2, 3, 4, 1).flatten(1, 3), (0, 0, 0, 1))
    rows_parts = rows_BIC.split(len(rows_BIC) // places * PRODUCT_PLACES)
    products = []
    for rows, matrices in zip(rows_parts, matrices_GKC.split(PRODUCT_PLACES), strict=True):
        windows = rows.index_select(1, voxels_O27).view(len(matrices), -1, 27 * channels_in)
        products.append(torch.baddbmm(layer.bias, windows, matrices))
    y = torch.cat(products).view(len(x_BCDHW), *sides, channels_out)
    return y.permute(0, 4, 1, 2, 3)


def _dense(x_BCDHW: Tensor, layer: FoldedLayer, counts_G: Tensor) -> Tensor:
    """A convolution of a tiny grid as a product with a matrix that takes all voxels in to all voxels out.

    The matrix holds all experts; the outputs of a sample are then mixed as its location's routing says.
    """
    assert layer.routing_GE is not None
    (experts, channels_out), channels_in = layer.kernels.shape[:2], layer.kernels.shape[-1]
    taps_OI, sides = _taps(x_BCDHW.shape[2:], layer.stride)
    kernels = F.pad(layer.kernels.view(experts * channels_out, -1, channels_in), (0, 0, 0, 1))
    # [experts, channels and voxels out; voxels and channels in]
    matrix = kernels.index_select(1, taps_OI.flatten()).view(-1, taps_OI.shape[1] * channels_in)
    routing_B1E = layer.routing_GE.repeat_interleave(counts_G, dim=0)[:, None]
    rows = x_BCDHW.permute(0, 2, 3, 4, 1).flatten(1)
    mixed = [
        torch.bmm(routing, F.linear(own, matrix).view(len(own), experts, -1))
        for own, routing in zip(rows.split(DENSE_SAMPLES), routing_B1E.split(DENSE_SAMPLES), strict=True)
    ]
    return torch.cat(mixed).view(-1, channels_out, *sides) + layer.bias[:, None, None, None]


def _taps(sides: Sequence[int], stride: int) -> tuple[Tensor, list[int]]:
    """(tap of the kernel from each voxel in to each voxel out, 27 for none, int64 [O, I]; sides of the output)."""
    sides_out = [side // stride for side in sides]
    voxels_I3, voxels_O3 = (
        torch.cartesian_prod(*(torch.arange(side) for side in shape)) for shape in (sides, sides_out)
    )
    offset_OI3 = voxels_I3[None] - stride * voxels_O3[:, None] + PADDING
    inside_OI = ((offset_OI3 >= 0) & (offset_OI3 <= 2 * PADDING)).all(-1)
    return torch.where(inside_OI, offset_OI3 @ torch.tensor([9, 3, 1]), 27), sides_out


@cache
def _windows(sides: tuple[int, ...], stride: int) -> tuple[Tensor, tuple[int, ...]]:
    """(voxel in of each tap of each voxel out, int64 [O 27]: their number where it is outside; sides of the output)."""
    sides_out = tuple(side // stride for side in sides)
    numbers = torch.arange(math.prod(sides)).view(*sides)
    padded = F.pad(numbers, (PADDING,) * 6, value=numbers.numel())
    for axis, side in enumerate(sides_out):
        padded = padded.unfold(axis, 3, stride).narrow(axis, 0, side)
    return padded.reshape(-1), sides_out
