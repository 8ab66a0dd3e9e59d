"""Normalisation, ELU and their gradients in a few passes over a part of a batch.

torch's own ELU evaluates exp(x) - 1 to the last bit even where the sum that follows it cannot keep it, and takes
2.5 ns a value on a CPU; max(x, 2 ** (min(x, 0) / ln 2) - 1) differs by less than 1e-7 and takes 1.0 ns.

Small tensors cost microseconds each, and a layer has up to a hundred parts: what is the same for all of them is made
once, and what they add up to is put together when all have been seen.

Legend: B samples, C channels, DHW space; everything is channels-last. WC are the columns of a row: one number a
channel, repeated along the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LN_2 = math.log(2)
LOG2_E = 1 / LN_2
#: Up to so many values a sample, one pass of torch's ELU takes less than the starts of four operations. Counted by
#: sample: how many are computed together must not change a result.
FEW_VALUES = 5_000

_MINUS_LOG2_E = torch.tensor(-LOG2_E, dtype=torch.float64)
#: For the maps' usual type: torch converts another one at every call, which takes 4 us.
_MINUS_LOG2_E_32 = _MINUS_LOG2_E.float()


@dataclass(frozen=True)
class Norm:
    """Normalisation of one layer, y = elu((x - mean) * inverse * weight + bias); all [C]."""

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def columns(self, width: int) -> tuple[Tensor, Tensor]:
        """(scale, shift) of y = elu(x * scale + shift), float32 [WC]."""
        scale = self.weight.double() * torch.rsqrt(self.variance.double() + self.eps)
        shift = self.bias.double() - self.mean.double() * scale
        return scale.float().repeat(width), shift.float().repeat(width)


def activate(x: Tensor, columns: tuple[Tensor, Tensor]) -> Tensor:
    """Outputs of the convolution -> activations; `columns` from `Norm.columns`."""
    scale, shift = columns
    return unrows(elu_(torch.addcmul(shift, rows(x), scale)), x)


def elu_(x: Tensor) -> Tensor:
    """ELU in place, any shape."""
    below = torch.mul(x, LOG2_E).clamp_max_(0).exp2_().sub_(1)
    return torch.maximum(x, below, out=x)


def scaled_elu_(x: Tensor) -> Tensor:
    """LOG2_E * elu(x / LOG2_E) in place, of a batch of any shape.

    Of values in units of ln 2, the exponential needs no factor: a pass less than `elu_`. A convolution keeps the unit,
    so that only the first input and every bias of a stack are multiplied by LOG2_E.
    """
    if x.numel() <= FEW_VALUES * len(x):
        torch.ops.aten.elu_(x, LOG2_E, 1.0, LN_2)
        return x
    below = torch.clamp_max(x, 0).exp2_()
    shift = _MINUS_LOG2_E_32 if x.dtype == torch.float32 else _MINUS_LOG2_E
    torch.add(shift, below, alpha=LOG2_E, out=below)
    return torch.maximum(x, below, out=x)


def through_elu_(grad_y: Tensor, y: Tensor) -> Tensor:
    """Gradient before ELU, from the one behind it and ELU's result; in place of the former."""
    torch.ops.aten.elu_backward.grad_input(grad_y, 1.0, 1.0, 1.0, True, y, grad_input=grad_y)
    return grad_y


def rows(x: Tensor) -> Tensor:
    """[B, C, D, H, W] channels last -> [B D H, W C], a view."""
    return x.permute(0, 2, 3, 4, 1).view(-1, x.shape[4] * x.shape[1])


def unrows(rows_: Tensor, like: Tensor) -> Tensor:
    """Inverse of `rows` for a tensor of the shape of `like`."""
    batch, channels, depth, height, width = like.shape
    return rows_.view(batch, depth, height, width, channels).permute(0, 4, 1, 2, 3)


def pixels(x: Tensor) -> int:
    """Values a channel."""
    return x.numel() // x.shape[1]


def moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """(pixels, mean, biased variance) of a part, for `merge`; [WC] of a row a plane."""
    wide = x.permute(0, 2, 3, 4, 1).reshape(len(x) * x.shape[2], -1)
    return pixels(x), *torch.batch_norm_update_stats(wide, None, None, 0.0)


def merge(parts: list[tuple[int, Tensor, Tensor]], channels: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance a channel over all parts, float32 [C] (Chan, Golub, LeVeque 1979)."""
    share = torch.tensor([[count] for count, _, _ in parts], dtype=torch.float64)
    share /= share.sum()
    means = torch.stack([mean for _, mean, _ in parts]).double().view(len(parts), -1, channels)
    variances = torch.stack([variance for _, _, variance in parts]).double().view(means.shape)
    grand = (share * means.mean(1)).sum(0)
    return grand.float(), (share * (variances + (means - grand) ** 2).mean(1)).sum(0).float()


def sums(grad: Tensor, x: Tensor, *, scratch: Tensor) -> Tensor:
    """Column sums of the gradient, and of gradient times x, of a part: [2, WC], for `factors`.

    `scratch` is memory of the same shape that is overwritten.
    """
    grads = rows(grad)
    return torch.stack([grads.sum(0), torch.mul(grads, rows(x), out=rows(scratch)).sum(0)])


@dataclass(frozen=True)
class Factors:
    """Gradient before the normalisation = a * gradient + b * x + c, float32 [WC]; gradients of weight and bias [C]."""

    a: Tensor
    b: Tensor
    c: Tensor
    weight: Tensor
    bias: Tensor


def factors(norm: Norm, parts: list[Tensor], *, count: int, width: int) -> Factors:
    """From the `sums` of all parts; `count` pixels in them."""
    both = torch.stack(parts).double().sum(0).view(2, -1, len(norm.mean)).sum(1)
    inverse = torch.rsqrt(norm.variance.double() + norm.eps)
    sum_g, sum_gx = both[0], (both[1] - norm.mean.double() * both[0]) * inverse
    a = norm.weight.double() * inverse
    b = -a * inverse * sum_gx / count
    c = -a * sum_g / count - b * norm.mean.double()
    wide_a, wide_b, wide_c = (factor.float().repeat(width) for factor in (a, b, c))
    return Factors(wide_a, wide_b, wide_c, weight=sum_gx.float(), bias=sum_g.float())


def through_norm_(grad: Tensor, x: Tensor, factors: Factors) -> Tensor:
    """Gradient before the normalisation, in place of its input x."""
    torch.addcmul(factors.c, rows(x), factors.b, out=rows(x)).addcmul_(rows(grad), factors.a)
    return x
