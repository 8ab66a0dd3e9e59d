"""Shards to training batches: one block, several scans, a few anchor locations, neighbours included.

The order of an epoch is a pure function of (seed, epoch), so a run resumes at any step without reading what came
before. A step's scans are divided over the workers; either all of them use the same anchor locations, or each those of
its own blocks, over which it passes repeatedly. A read takes one row group from each of the scans of a step; its
anchors are then served `locations_per_batch` at a time, as rows of what was read: an anchor and its neighbours are
copied where they are used, and a row is transferred to a GPU once, not each time that it is a neighbour. While one read
is served, threads decompress the next, and the one after it is being fetched from the disk or the store.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctplatform.dataset import parquet_pages, shards
from ctplatform.dataset.byte_ranges import ByteRanges, Pending
from ctplatform.errors import StageError
from ctplatform.storage.workspace import Workspace
from ctplatform.training import partition
from ctplatform.training.batch import Batch, Patches
from ctplatform.training.runs import ScanEntry
from drasclr.gather import share

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

READS_AHEAD = 1  # decompressed beside the one that batches are made of; 16 scans x 27 patches are 27 MiB
REQUESTS_AHEAD = 1  # fetched beside those, still compressed
MAX_THREADS = 4


@dataclass(frozen=True)
class Read:
    """Row groups to read together: one block of several scans, and the anchors of each step served from it.

    `epoch` is the number of the pass, with which augmentations are drawn.
    """

    epoch: int
    block: int
    scans: np.ndarray
    steps: tuple[np.ndarray, ...]


class Feed:
    """Batches of an epoch for one rank.

    Args:
        workspace: holds the shards.
        scans: the same list on every rank.
        atlas: blocks and neighbours.
        scans_per_batch: scans a step over all ranks, at most `len(scans)`. The ranks' parts differ by one scan at most.
        locations_per_batch: anchors a step.
        seed: of the order.
        rank: of this worker among `world` workers.
        world: number of workers.
        own_blocks: whether each rank works on its own blocks (`partition.blocks_of`) instead of all on the same.
        threads: that read and decompress; by default this process's part of the cores, at most four.
        device: where batches will be used; the reading threads also transfer what they read to it.

    Raises:
        StageError: fewer scans, or own blocks, than workers.
    """

    def __init__(
        self,
        workspace: Workspace,
        scans: Sequence[ScanEntry],
        atlas: Atlas,
        *,
        scans_per_batch: int,
        locations_per_batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        own_blocks: bool = False,
        threads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.batch = partition.batch_size(scans_per_batch, len(scans), world)
        self.workspace, self.scans, self.atlas = workspace, list(scans), atlas
        self.blocks = (
            partition.blocks_of(atlas, rank, world) if own_blocks else tuple(range(atlas.num_blocks))
        )
        self.own_blocks = own_blocks
        self._group = share(rank, world, self.batch) if own_blocks else self.batch
        self.device = torch.device(device)
        self.anchors, self.seed, self.rank, self.world = locations_per_batch, seed, rank, world
        self.threads = threads or min(MAX_THREADS, max(1, (os.cpu_count() or 1) // world))
        # In place of parsed footers, which are far larger.
        self._extents: dict[int, list[parquet_pages.Extent]] = {}
        self._places: dict[int, tuple[np.ndarray, int]] = {}
        self._ranges = ByteRanges(workspace)
        self.waited_s = 0.0

    def plan(self, epoch: int) -> list[Read]:
        """A pass in order: every scan and anchor once, except that the last group of scans is filled up."""
        extra = [self.rank] if self.own_blocks and self.rank else []
        rng = np.random.default_rng([self.seed, epoch, *extra])
        reads = []
        for block in self.blocks:
            scans = rng.permutation(len(self.scans))
            members = self.atlas.members(block)
            for start in range(0, len(scans), self._group):
                group = scans[start : start + self._group]
                group = np.concatenate([group, scans[: self._group - len(group)]])
                anchors = rng.permutation(members)
                steps = tuple(anchors[i : i + self.anchors] for i in range(0, len(anchors), self.anchors))
                reads.append(Read(epoch, block, group, steps))
        return [reads[i] for i in rng.permutation(len(reads))]

    def steps_per_epoch(self) -> int:
        """Steps an epoch: the same for every epoch and rank, and for any number of ranks."""
        return self._steps(range(self.atlas.num_blocks), self.batch)

    def _steps(self, blocks: Iterable[int], group: int) -> int:
        anchored = sum(-(-len(self.atlas.members(block)) // self.anchors) for block in blocks)
        return -(-len(self.scans) // group) * anchored

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from its `start_step`-th step on.

        With own blocks, a rank's pass over them may be shorter or longer than an epoch: passes follow one another
        independently of the epochs. So all ranks make the same number of steps, and each pass is complete.
        """
        steps = self.steps_per_epoch()
        number, skip = divmod(epoch * steps + start_step, self._steps(self.blocks, self._group))
        work: list[tuple[Read, int, int]] = []
        wanted = steps - start_step
        while wanted > 0:
            for read in self.plan(number):
                stop = min(len(read.steps), skip + wanted)
                if skip < stop:
                    work.append((read, skip, stop))
                    wanted -= stop - skip
                skip = max(0, skip - len(read.steps))
            number += 1
        yield from self._read_ahead(work)

    def sample(self, epoch: int, count: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """`count` single steps spread evenly over the epoch's reads, so that all blocks are seen; of `world` shares of
        them the one of `rank`."""
        plan = self.plan(epoch)
        chosen = np.linspace(0, len(plan) - 1, min(count, len(plan))).astype(int)[rank::world]
        yield from self._read_ahead([(plan[index], 0, 1) for index in chosen])

    def _read_ahead(self, work: list[tuple[Read, int, int]]) -> Iterator[Batch]:
        """The batches of reads in order; each item is (read, first step, step to stop before)."""
        todo = iter(work)
        requested: deque[tuple[Read, list[Pending]]] = deque()
        running: deque[Callable[[], Patches]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="read")

        def start() -> None:
            while len(requested) <= REQUESTS_AHEAD and (item := next(todo, None)) is not None:
                requested.append((item[0], self._request(item[0])))
            if requested:
                running.append(self._decoding(pool, *requested.popleft()))

        try:
            for _ in range(READS_AHEAD):
                start()
            for read, first, stop in work:
                began = time.perf_counter()
                patches = running.popleft()()
                self.waited_s += time.perf_counter() - began
                start()
                yield from self._batches(read, patches, read.steps[first:stop])
        finally:
            pool.shutdown(cancel_futures=True)
            self._ranges.close()

    def _own_scans(self, read: Read) -> np.ndarray:
        return read.scans if self.own_blocks else read.scans[self.rank :: self.world]

    def _request(self, read: Read) -> list[Pending]:
        """Request the bytes of a read's row groups, for this rank's scans."""
        pending, scan = [], -1
        try:
            for scan in self._own_scans(read):
                pending.append(self._ranges.request(self.scans[scan].scan_id, self._extent(scan, read.block)))
        except (parquet_pages.PageError, IndexError) as error:
            raise self._mismatch(scan, error) from error
        return pending

    def _decode(self, block: int, scans: np.ndarray, pending: Sequence[Pending]) -> list[np.ndarray]:
        """Some scans' patches of a block in `shards.row_order`, int16 [R, voxels] each: one range of each file."""
        width, found, scan = self.atlas.patch_size**3 * shards.DTYPE.itemsize, [], -1
        try:
            for scan, take in zip(scans, pending, strict=True):
                data = parquet_pages.read_rows(
                    take(),
                    self._extents[scan][block],
                    width=width,
                    footer=partial(shards.read_footer, self.scans[scan].footer),
                )
                found.append(data.view(shards.DTYPE))
        except parquet_pages.PageError as error:
            raise self._mismatch(scan, error) from error
        return found

    def _decoding(
        self, pool: ThreadPoolExecutor, read: Read, pending: Sequence[Pending]
    ) -> Callable[[], Patches]:
        """Decode a read in the pool, each thread a part of the scans; the result waits and returns the patches."""
        own = self._own_scans(read)
        size = -(-len(own) // self.threads)
        parts = [
            pool.submit(self._decode, read.block, own[at : at + size], pending[at : at + size])
            for at in range(0, len(own), size)
        ]

        def patches() -> Patches:
            found = Patches([scan for part in parts for scan in part.result()], self.atlas.patch_size)
            if self.device.type != "cpu":
                found.on(self.device)
            return found

        # The transfer is a task of its own, queued behind those that it waits for.
        return patches if self.device.type == "cpu" else pool.submit(patches).result

    def _extent(self, scan: int, block: int) -> parquet_pages.Extent:
        if scan not in self._extents:
            footer = shards.read_footer(self.scans[scan].footer)
            self._extents[scan] = [
                parquet_pages.Extent.of(footer, group, "patch") for group in range(footer.num_row_groups)
            ]
        extent, expected = self._extents[scan][block], self._place(block)[1]
        if extent.values != expected:
            raise parquet_pages.PageError(f"block {block} has {extent.values} rows, {expected} expected")
        return extent

    def _mismatch(self, scan: int, error: Exception) -> StageError:
        return StageError(
            f"the shard of scan {self.scans[scan].scan_id} does not fit the atlas or this software: {error}",
            "Prepare the scan again: delete its shard and its row in the ledger, then run `drasclr prepare`",
            code="shard",
        )

    def _place(self, block: int) -> tuple[np.ndarray, int]:
        """(row of each location in a block's row group, -1 if absent; number of rows), the same for all scans."""
        if block not in self._places:
            order = shards.row_order(self.atlas, block)[0]
            place_N = np.full(self.atlas.num_locations, -1, np.int64)
            place_N[order] = np.arange(len(order))
            self._places[block] = place_N, len(order)
        return self._places[block]

    def _batches(self, read: Read, patches: Patches, steps: Iterable[np.ndarray]) -> Iterator[Batch]:
        own, (place_N, _) = self._own_scans(read), self._place(read.block)
        scans_S = torch.from_numpy(own.astype(np.int64))
        subjects_S = torch.tensor([self.scans[i].subject for i in own], dtype=torch.int64)
        for anchors in steps:
            neighbours = self.atlas.neighbours_NK[anchors]
            yield Batch(
                patches=patches,
                anchor_rows_G=torch.from_numpy(place_N[anchors]),
                neighbour_rows_GK=torch.from_numpy(place_N[neighbours]),
                locations_G=torch.from_numpy(anchors.astype(np.int64)),
                neighbour_locations_GK=torch.from_numpy(neighbours.astype(np.int64)),
                scans_S=scans_S,
                subjects_S=subjects_S,
                epoch=read.epoch,
            )
