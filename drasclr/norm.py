"""Normalisation followed by ELU, and recalibration of running statistics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NormELU(nn.BatchNorm3d):
    """BatchNorm3d, then ELU. Same parameters, buffers and results as the two modules one after the other.

    On the CPU, torch sums the statistics of a channels-last tensor naively in single precision, which is wrong by up
    to 5e-3; here such a tensor is normalised in the other layout. (`trunk` keeps the layout and merges in double.)
    """

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """[B, C, D, H, W] -> the same shape."""
        if self.training and _needs_care(x_BCDHW):
            x_BCDHW = x_BCDHW.contiguous()
        return F.elu(super().forward(x_BCDHW), inplace=True)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Update the running statistics by mean and biased variance of a batch with `count` values a channel."""
        if count < 2:
            raise ValueError(
                "batch normalisation needs more than one patch in training; add patches or call eval()"
            )
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
    that mix all locations corrects this.

    Args:
        encoder: called as encoder(patches, locations).
        batches: (patches, locations), as the encoder takes them.
    """
    layers = [module for module in encoder.modules() if isinstance(module, NormELU)]
    momenta = [layer.momentum for layer in layers]
    training = encoder.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # in torch: a plain mean over all batches
    encoder.train()
    try:
        for patches, locations in batches:
            encoder(patches, locations)
    finally:
        encoder.train(training)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@torch.no_grad()
def share_statistics(encoder: nn.Module) -> None:
    """After `recalibrate` on each rank over its own batches: the statistics over the batches of all ranks.

    A collective operation. A rank without batches has no weight.
    """
    for layer in encoder.modules():
        if not isinstance(layer, NormELU):
            continue
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.num_batches_tracked is not None
        count = layer.num_batches_tracked.double()
        sums = torch.cat([count * layer.running_mean, count * layer.running_var, count[None]])
        torch.distributed.all_reduce(sums)
        mean, variance = (sums[:-1] / sums[-1]).chunk(2)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        layer.num_batches_tracked.copy_(sums[-1])


def _needs_care(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last_3d)
        and x[0, 0].numel() > 1
    )
