"""Whether all numbers of a state are finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def all_finite(*states: Any) -> torch.Tensor:
    """A scalar bool tensor: no floating-point tensor in some nested mappings and sequences has NaN or infinity.

    The values of all tensors are reduced on their device: a GPU is waited for once, when the result is tested.
    """
    each = [torch.isfinite(tensor).all() for tensor in _tensors(states) if tensor.is_floating_point()]
    if not each:
        return torch.tensor(True)
    device = each[0].device
    return torch.stack([value.to(device) for value in each]).all()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
