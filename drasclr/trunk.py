"""The whole stack of convolutions in training on a CPU, over parts of the batch that stay in the processor's cache.

Batch statistics couple all samples of a layer, but between two layers samples are independent. So the batch is cut
into small parts of one location each, and each part passes normalisation, ELU and the next convolution before the next
part is touched; backward likewise, in one autograd function. `inference` has the stack in evaluation mode.

Legend: G locations, C channels, DHW space; everything is channels-last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drasclr import gradients, pointwise
from drasclr.convolution import convolve
from drasclr.pointwise import Norm

# Largest number of values of a part: 2 MB in single precision, as fast as any from 1 to 4 MB.
PART_VALUES = 1 << 19


@dataclass(frozen=True)
class Stack:
    """What the function needs beside tensors: stride of each layer, epsilon, samples of each location."""

    strides: tuple[int, ...]
    eps: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Some samples of one location: outputs of a convolution and their activations."""

    place: int
    x: Tensor
    y: Tensor


def train(
    x_BCDHW: Tensor, stack: Stack, layers: Sequence[tuple[Tensor, ...]]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """All layers in training mode; float32.

    Args:
        x_BCDHW: location-major batch, channels last.
        stack: strides, epsilon and how the batch is divided.
        layers: a layer, (kernels [G or 1, Cout, Cin, 3, 3, 3], bias, weight and bias of the normalisation).

    Returns:
        (output of the last layer, mean and biased variance of each layer's batch).
    """
    tensors = [tensor for layer in layers for tensor in layer]
    # The momentum encoder is trained by no gradient: its activations need not outlive the layer that reads them.
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x_BCDHW, *tensors))
    run: Callable[..., tuple[Tensor, ...]] = _Run.apply
    output, *statistics = run(x_BCDHW, stack, keep, *tensors)
    return output, list(zip(statistics[0::2], statistics[1::2], strict=True))


def cuts(count: int, size: int) -> list[int]:
    """Sizes of the parts of `count` samples: `size` each, and what is left over, but no single sample if avoidable.

    oneDNN takes up to twice as long for a single sample as for one of two.
    """
    sizes = [size] * (count // size) + ([count % size] if count % size else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def samples(channels_in: int, channels_out: int, pixels: int, stride: int) -> int:
    """Samples of a part, a power of two, so that coarser parts are always made of whole finer ones.

    Args:
        channels_in: of the convolution.
        channels_out: of the convolution.
        pixels: of a sample's input.
        stride: of the convolution.
    """
    values = max(channels_in * pixels, channels_out * pixels // stride**3)
    return 1 << max(0, (PART_VALUES // values).bit_length() - 1)


def regroup(parts: list[Tensor], size: int) -> list[Tensor]:
    """The same samples of one location in parts of `size` samples, in the same order; the last may be smaller."""
    if len(parts) > 1 and size != len(parts[0]):
        parts = [torch.cat(parts)]
    return [piece for part in parts for piece in torch.split(part, cuts(len(part), size))]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCDHW: Tensor, stack: Stack, keep: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        layers = list(zip(tensors[0::4], tensors[1::4], tensors[2::4], tensors[3::4], strict=True))
        places = range(len(stack.counts))
        kept: list[list[Part]] = []
        norms: list[Norm] = []
        outputs = list(zip(places, torch.split(x_BCDHW, list(stack.counts)), strict=True))
        for (kernels, bias, weight, norm_bias), stride in zip(layers, stack.strides, strict=True):
            channels_out, channels_in = kernels.shape[1:3]
            size = samples(channels_in, channels_out, outputs[0][1][0, 0].numel(), stride)
            columns = norms[-1].columns(outputs[0][1].shape[4]) if norms else None
            parts, moments = [], []
            fresh: list[tuple[int, Tensor]] = []
            waiting = _regroup_places(outputs, size)
            outputs.clear()
            while waiting:
                place, x = waiting.pop(0)
                y = pointwise.activate(x, columns) if columns else x
                if keep:
                    parts.append(Part(place, x, y))
                # Of a single sample, torch may return another layout.
                out = _last(convolve(y, kernels[place % len(kernels)], bias, stride))
                fresh.append((place, out))
                moments.append(pointwise.moments(out))
            kept.append(parts)
            outputs = fresh
            mean, variance = pointwise.merge(moments, kernels.shape[1])
            norms.append(Norm(mean, variance, weight, norm_bias, stack.eps))
        columns = norms[-1].columns(outputs[0][1].shape[4])
        last = [Part(place, x, pointwise.activate(x, columns)) for place, x in outputs]
        if keep:
            ctx.stack, ctx.norms, ctx.kept = stack, norms, [*kept, last]
            ctx.save_for_backward(*tensors)
        statistics = [value for norm in norms for value in (norm.mean, norm.variance)]
        ctx.mark_non_differentiable(*statistics)
        return torch.cat([part.y for part in last]), *statistics

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        kernels_of, biases = ctx.saved_tensors[0::4], ctx.saved_tensors[1::4]
        results: list[Tensor] = []
        last = ctx.kept[-1]
        incoming = torch.split(_last(grads[0]), [len(part.x) for part in last])
        # Activations and outputs are read for the last time here: what replaces them takes their memory.
        flowing = [
            pointwise.through_elu_(grad.clone(), part.y) for grad, part in zip(incoming, last, strict=True)
        ]
        sums = [
            pointwise.sums(grad, part.x, scratch=part.y) for grad, part in zip(flowing, last, strict=True)
        ]
        for index in reversed(range(len(kernels_of))):
            kernels, outputs, inputs = kernels_of[index], ctx.kept.pop(), ctx.kept[-1]
            factors = pointwise.factors(
                ctx.norms[index],
                sums,
                count=sum(pointwise.pixels(part.x) for part in outputs),
                width=outputs[0].x.shape[4],
            )
            grad_kernels = torch.empty_like(kernels)
            # Normalisation takes every bias away; what torch would sum up here is rounding.
            grad_bias = torch.zeros_like(biases[index])
            started: set[int] = set()
            below, sums_below = [], []
            grads_x = zip(flowing, (part.x for part in outputs), strict=True)
            for (grad, x), part in zip(
                _refine(grads_x, [len(part.x) for part in inputs]), inputs, strict=True
            ):
                place = part.place % len(kernels)
                grad_y, grad_kernel = gradients.convolution(
                    pointwise.through_norm_(grad, x, factors),
                    part.y,
                    kernels[place],
                    ctx.stack.strides[index],
                    input_too=index > 0 or ctx.needs_input_grad[0],
                )
                if place in started:
                    grad_kernels[place] += grad_kernel
                else:
                    grad_kernels[place].copy_(grad_kernel)
                    started.add(place)
                if grad_y is None:
                    continue
                if index:
                    grad_y = pointwise.through_elu_(_last(grad_y), part.y)
                    sums_below.append(pointwise.sums(grad_y, part.x, scratch=part.y))
                below.append(grad_y)
            results = [grad_kernels, grad_bias, factors.weight, factors.bias, *results]
            flowing, sums = below, sums_below
        grad_input = torch.cat(flowing) if ctx.needs_input_grad[0] else None
        return grad_input, None, None, *results


def _last(x: Tensor) -> Tensor:
    """Channels last in memory, too; the same tensor if it is already."""
    return x.contiguous(memory_format=torch.channels_last_3d)


def _regroup_places(outputs: list[tuple[int, Tensor]], size: int) -> list[tuple[int, Tensor]]:
    """`regroup` of each location, in the same order."""
    return [
        (place, part)
        for place, own in itertools.groupby(outputs, key=lambda output: output[0])
        for part in regroup([x for _, x in own], size)
    ]


def _refine(coarse: Iterable[tuple[Tensor, Tensor]], sizes: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same samples in parts of `sizes`, as views; no boundary of a coarse part lies within a fine one."""
    remaining = iter(sizes)
    for first, second in coarse:
        own: list[int] = []
        while sum(own) < len(first):
            own.append(next(remaining))
        yield from zip(torch.split(first, own), torch.split(second, own), strict=True)
