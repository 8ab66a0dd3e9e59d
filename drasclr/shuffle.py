"""Key shuffling across workers: keys are encoded in other batches than their queries.

With batch normalisation a query and its key, encoded in the same batch, share statistics, and the contrast can be
solved by recognising them. As published, keys of all workers are mixed before they are encoded; unlike there, every
patch keeps its location.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from drasclr.encoder import Encoder


def encode_shuffled(encoder: Encoder, patches_GSCDHW: Tensor, locations_G3: Tensor) -> Tensor:
    """Features [G, S, 128], each worker encoding an equal random share of every worker's scans.

    Without a process group, or with one worker, this is encoder.grouped.

    Raises:
        ValueError: the scans of the batch cannot be divided by the number of workers.
    """
    workers = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if workers == 1:
        return encoder.grouped(patches_GSCDHW, locations_G3)
    places, scans = patches_GSCDHW.shape[:2]
    if scans % workers:
        raise ValueError(f"key shuffling needs a number of scans divisible by {workers} workers, got {scans}")
    share = scans // workers
    # Each worker may draw its own order, for only it needs to undo it.
    order_S = torch.randperm(scans, device=patches_GSCDHW.device)
    mixed_GS = patches_GSCDHW[:, order_S]
    mixed = mixed_GS.view(places, workers, share, *mixed_GS.shape[2:]).transpose(0, 1)
    received_WG = _exchange(mixed)
    everywhere = [torch.empty_like(locations_G3) for _ in range(workers)]
    dist.all_gather(everywhere, locations_G3.contiguous())
    features = encoder.grouped(received_WG.flatten(0, 1), torch.cat(everywhere))
    own_WG = _exchange(features.view(workers, places, share, -1))
    return own_WG.transpose(0, 1).flatten(1, 2)[:, torch.argsort(order_S)]


def _exchange(parts_W: Tensor) -> Tensor:
    """Part w goes to worker w; returned is what every worker sent here."""
    parts_W = parts_W.contiguous()
    received_W = torch.empty_like(parts_W)
    dist.all_to_all_single(received_W, parts_W)
    return received_W
