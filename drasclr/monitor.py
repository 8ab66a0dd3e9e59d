"""Monitors of collapse: what the losses do not show.

Legend: G locations, S scans, D features. All inputs are L2-normalised embeddings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drasclr.encoder import Encoder


def alignment(queries_GSD: Tensor, keys_GSD: Tensor) -> Tensor:
    """Mean squared distance of a query and its key; 0 is perfect (Wang and Isola 2020)."""
    return (queries_GSD - keys_GSD).square().sum(-1).mean()


def uniformity(embeddings_GSD: Tensor) -> Tensor:
    """Log of the mean of exp(-2 d^2) over pairs of scans at the same location; 0 is collapse (Wang and Isola 2020)."""
    scans = embeddings_GSD.shape[1]
    if scans < 2:
        return torch.full((), math.nan, device=embeddings_GSD.device)
    square_GSS = 2 - 2 * embeddings_GSD @ embeddings_GSD.transpose(1, 2)
    pairs = torch.triu_indices(scans, scans, offset=1, device=embeddings_GSD.device)
    return square_GSS[:, pairs[0], pairs[1]].mul(-2).exp().mean().log()


def effective_rank(embeddings_BD: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007), between 1 and min(B, D).

    NaN where an embedding is not finite.
    """
    centred = (embeddings_BD - embeddings_BD.mean(0)).double()
    small = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    if not torch.isfinite(small).all():
        return torch.tensor(torch.nan, device=embeddings_BD.device, dtype=small.dtype)
    singular = torch.linalg.eigvalsh(small).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=1e-12)
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp().float()


def top1(positive_B: Tensor, negative_BM: Tensor) -> Tensor:
    """Share of rows whose positive beats every negative, of those that have one; NaN if none has.

    Negatives that do not count are -inf.
    """
    hardest_B = negative_BM.amax(-1) if negative_BM.shape[-1] else torch.full_like(positive_B, -math.inf)
    contested_B = hardest_B > -math.inf
    return ((positive_B > hardest_B) & contested_B).sum() / contested_B.sum()


@torch.no_grad()
def expert_entropy(encoder: Encoder, locations_G3: Tensor) -> Tensor:
    """How evenly experts are used: entropy of the normalised routing, 1 is even, 0 a single expert; mean over layers.

    NaN for an encoder with one expert.
    """
    if encoder.experts == 1:
        return torch.full((), math.nan, device=locations_G3.device)
    values = []
    for _, layer in encoder.stages():
        routing_GE = layer.conv.route(locations_G3)
        share_GE = routing_GE / routing_GE.sum(1, keepdim=True)
        values.append(torch.special.entr(share_GE).sum(1).mean() / math.log(encoder.experts))
    return torch.stack(values).mean()
