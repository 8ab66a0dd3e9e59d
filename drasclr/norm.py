"""Batch normalisation followed by ELU, accurate and fast in the channels-last layout, and its recalibration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NormELU(nn.BatchNorm3d):
    """BatchNorm3d, then ELU. Same parameters, buffers and results as the two modules one after the other.

    On the CPU, torch sums the statistics of a channels-last tensor naively in single precision, which is wrong by up
    to 5e-3; here they are merged in double precision.
    """

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """[B, C, D, H, W] -> the same shape and layout."""
        if self.training and _needs_care(x_BCDHW):
            y, mean, variance = _BatchNormELU.apply(x_BCDHW, self.weight, self.bias, self.eps)
            self._track(mean, variance, count=x_BCDHW.numel() // x_BCDHW.shape[1])
            return y
        return F.elu(super().forward(x_BCDHW), inplace=True)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


class GroupNormELU(nn.GroupNorm):
    """GroupNorm, then ELU: no statistics over the batch, so keys need no shuffling and workers no agreement."""

    def __init__(self, channels: int) -> None:
        super().__init__(min(8, channels), channels)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """[B, C, D, H, W] -> the same shape."""
        return F.elu(super().forward(x_BCDHW), inplace=True)


@torch.no_grad()
def recalibrate(encoder: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replace the running statistics of all NormELU layers by the plain mean over some batches.

    Trained one location after the other, an encoder carries the statistics of the last locations; a pass over batches
    that mix all locations cures it.

    Args:
        encoder: called as encoder(patches, locations).
        batches: (patches, locations), as the encoder takes them.
    """
    layers = [module for module in encoder.modules() if isinstance(module, NormELU)]
    momenta = [layer.momentum for layer in layers]
    training = encoder.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's way to ask for a plain mean over all batches
    encoder.train()
    try:
        for patches, locations in batches:
            encoder(patches, locations)
    finally:
        encoder.train(training)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _needs_care(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last_3d)
        and x[0, 0].numel() > 1
    )


def _statistics(x_BCDHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance a channel, float64: per image row in single, over the rows in double precision."""
    batch, channels, depth, height, width = x_BCDHW.shape
    rows = x_BCDHW.permute(0, 2, 3, 4, 1).reshape(batch * depth, height * width * channels)
    mean, variance = torch.batch_norm_update_stats(rows, None, None, 0.0)
    mean = mean.double().view(-1, channels)
    variance = variance.double().view(-1, channels)
    grand = mean.mean(0)
    return grand, (variance + (mean - grand) ** 2).mean(0)


class _BatchNormELU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean64, variance64 = _statistics(x)
        mean, variance = mean64.float(), variance64.float()
        y = F.elu_(F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps))
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance64 + eps).float(), y)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, y = ctx.saved_tensors
        grad = torch.ops.aten.elu_backward(grads[0], 1.0, 1.0, 1.0, True, y)
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]
        )
        return grad_x, grad_weight, grad_bias, None
