"""The partition of work over the workers: scans of a step, blocks of locations and their keys.

A pure function of the atlas and the number of workers: no worker has to exchange messages to compute it. The number of
scans a step does not depend on the number of workers, so neither do the number of steps, the learning rate and its
schedule: workers can be added and removed during a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctplatform.config.training import PretrainConfig
from ctplatform.errors import StageError

if TYPE_CHECKING:
    from drasclr.atlas import Atlas


def batch_size(scans_per_batch: int, scans: int, world: int) -> int:
    """Scans a step over all workers.

    Raises:
        StageError: a worker would have none.
    """
    if scans < world:
        raise StageError(
            f"{scans} scans cannot feed {world} workers", "Set pretrain.num_workers lower", code="few-scans"
        )
    if scans_per_batch < world:
        raise StageError(
            f"pretrain.scans_per_batch={scans_per_batch} is less than {world} workers",
            "Set it to pretrain.num_workers at least",
            code="config",
        )
    return min(scans_per_batch, scans)


def blocks_of(atlas: Atlas, rank: int, world: int) -> tuple[int, ...]:
    """Blocks whose locations a worker owns: largest block first, each to the worker with the fewest locations so far.

    Raises:
        StageError: fewer blocks than workers.
    """
    if atlas.num_blocks < world:
        raise StageError(
            f"pretrain.memory=location_parallel: {atlas.num_blocks} blocks of locations for {world} workers",
            "Set pretrain.num_workers lower, or atlas.block_size lower for an atlas with more blocks",
            code="few-blocks",
        )
    sizes = np.bincount(atlas.blocks_N)
    load = [0] * world
    owned: list[list[int]] = [[] for _ in range(world)]
    for block in np.lexsort((np.arange(len(sizes)), -sizes)).tolist():
        owner = load.index(min(load))
        owned[owner].append(block)
        load[owner] += int(sizes[block])
    return tuple(sorted(owned[rank]))


def locations_of(atlas: Atlas, rank: int, world: int) -> np.ndarray:
    """Locations of a worker's blocks, ascending."""
    return np.flatnonzero(np.isin(atlas.blocks_N, blocks_of(atlas, rank, world)))


def check_workers(config: PretrainConfig, atlas: Atlas, scans: int, world: int) -> None:
    """Check before any worker is started that `world` of them can train.

    Raises:
        StageError: too many for the scans, the batch or the blocks, or a number that shuffled keys do not divide by.
    """
    batch = batch_size(config.scans_per_batch, scans, world)
    if config.memory == "location_parallel":
        blocks_of(atlas, 0, world)
    if config.shuffle_keys and world > 1 and batch % world**2:
        raise StageError(
            f"pretrain.shuffle_keys: {batch} scans a step over {world} workers, but shuffling needs the same number "
            "of keys from each worker to each",
            f"Set pretrain.scans_per_batch to a multiple of {world**2}, or pretrain.shuffle_keys=false",
            code="config",
        )
