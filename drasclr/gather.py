"""Keys and statistics of all workers, where the scans of a step are divided over them.

Legend: G locations, S scans of this worker, T scans of all workers, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Keys:
    """Keys and subjects of all T scans, in the order of the undivided batch, and where this worker's S are in it."""

    keys_GTD: Tensor
    subjects_T: Tensor
    own_S: Tensor


class Gather:
    """Collects the keys of a step from all workers; a collective, called by all of them.

    Worker r of W has the scans r, r + W, r + 2 W, ... of the undivided batch (`share`). Shares may differ by one scan:
    shorter ones are padded, so that every worker sends and receives the same shapes.

    Args:
        rank: this worker's place.
        world: number of workers.
        total: scans of the undivided batch, T.
    """

    def __init__(self, *, rank: int, world: int, total: int) -> None:
        self.rank, self.world, self.total = rank, world, total

    @property
    def counts(self) -> list[int]:
        """Scans of each worker."""
        return [share(rank, self.world, self.total) for rank in range(self.world)]

    def stack(self, values: Tensor) -> Tensor:
        """A tensor of the same shape from each worker, [W, ...]; with gradients, backward being a collective, too.

        The gradient of this worker's values is the sum over what all workers compute from them.
        """
        apply: Callable[..., Tensor] = _Stack.apply
        return apply(values, self.rank, self.world)

    def __call__(self, keys_GSD: Tensor, subjects_S: Tensor) -> Keys:
        """The same keys and subjects on every worker."""
        subjects_S = subjects_S.to(keys_GSD.device)
        own_S = torch.arange(self.rank, self.total, self.world, device=keys_GSD.device)
        if self.world == 1:
            return Keys(keys_GSD, subjects_S, own_S)
        longest = -(-self.total // self.world)
        return Keys(
            self._collect(keys_GSD.detach(), longest, dim=1),
            self._collect(subjects_S, longest, dim=0),
            own_S,
        )

    def _collect(self, values: Tensor, longest: int, *, dim: int) -> Tensor:
        missing = longest - values.shape[dim]
        if missing:
            shape = list(values.shape)
            shape[dim] = missing
            values = torch.cat([values, values.new_zeros(shape)], dim)
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(parts, values.contiguous())
        # Scan i of worker r is scan i W + r of the batch: padding ends up behind the last one.
        return torch.stack(parts, dim + 1).flatten(dim, dim + 1).narrow(dim, 0, self.total)


def share(rank: int, world: int, total: int) -> int:
    """How many of `total` scans a worker has."""
    return len(range(rank, total, world))


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rank: int, world: int) -> Tensor:
        ctx.rank = rank
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad_W = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad_W)
        return grad_W[ctx.rank], None, None
