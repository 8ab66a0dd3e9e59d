"""Anchors and their neighbours in a step: which patches are encoded, and what an anchor's neighbours give together.

Legend: N locations of the atlas, G anchor locations of a batch, H other locations, K neighbours an anchor, S scans,
D features of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NeighbourAttention(nn.Module):
    """Weights of the neighbours from their embedding and where they lie relative to the anchor; starts as the mean.

    Args:
        features: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        last = nn.Linear(32, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.score = nn.Sequential(nn.Linear(features + 3, 32), nn.Tanh(), last)

    def forward(self, embeddings_GKSD: Tensor, offsets_GK3: Tensor) -> Tensor:
        """Weighted mean over the neighbours, [G, S, D]."""
        offsets = offsets_GK3[:, :, None].expand(*embeddings_GKSD.shape[:3], 3)
        weight = self.score(torch.cat([embeddings_GKSD, offsets.to(embeddings_GKSD)], dim=-1)).softmax(dim=1)
        together_GSD: Tensor = (weight * embeddings_GKSD).sum(1)
        return together_GSD


def others(locations_G: Tensor, neighbours_GK: Tensor) -> Tensor:
    """Neighbours that are no anchors themselves, [H], each once, ascending."""
    near: Tensor = torch.unique(neighbours_GK)
    return near[~torch.isin(near, locations_G)]


def rows(locations_G: Tensor, neighbours_GK: Tensor) -> Tensor:
    """Of each anchor's neighbours among the anchors and then the `others`, [G, K]."""
    encoded, order = torch.cat([locations_G, others(locations_G, neighbours_GK)]).sort()
    return order[torch.searchsorted(encoded, neighbours_GK.contiguous())]
