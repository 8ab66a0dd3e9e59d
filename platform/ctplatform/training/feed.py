"""Shards to training batches: one block, several scans, a few anchor locations, neighbours included.

The order of an epoch is a pure function of (seed, epoch), so a run resumes at any step without reading what came
before. A step's scans are divided over the workers; either all of them work on the same anchor locations, or each on
those of its own blocks, through which it passes again and again. A read takes one row group from each of the scans of
a step; its anchors are then served `locations_per_batch` at a time, as rows of what was read: an anchor and its
neighbours are copied where they are used, and a GPU gets a row once, not each time that it is somebody's neighbour.
While one read is served, threads decompress the next, and the one after it is on its way from the disk or the store.
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
from drasclr.gather import share

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

READS_AHEAD = 1  # decompressed beside the one that batches are made of; 16 scans x 27 patches are 27 MiB
ASKED_AHEAD = 1  # asked for beside those; as they are stored
MOST_THREADS = 4


@dataclass(frozen=True)
class ScanEntry:
    """A scan that is trained on. `subject` numbers the subjects; two scans of one subject share it."""

    scan_id: str
    subject: int
    footer: bytes


@dataclass(frozen=True)
class Read:
    """Row groups to read together: one block of several scans, and the anchors of each step served from it.

    `epoch` counts the passes over what this order is of; it is what augmentations are drawn with.
    """

    epoch: int
    block: int
    scans: np.ndarray
    steps: tuple[np.ndarray, ...]


class Patches:
    """One block's patches of several scans, where they were read; nothing is copied before `take`.

    Args:
        scans: a scan, int16 HU [R, voxels], R in `shards.row_order`; only the voxels need be contiguous.
        side: of a patch, voxels.
    """

    def __init__(self, scans: Sequence[np.ndarray], side: int) -> None:
        self._scans, self._side = scans, side
        self._held: torch.Tensor | None = None

    def take(self, rows: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """Rows of all scans: any shape -> int16 HU [*rows, S, D, H, W], memory of its own."""
        shape = (*rows.shape, len(self._scans), *(self._side,) * 3)
        if torch.device(device).type == "cpu":
            hu = np.empty((rows.numel(), len(self._scans), self._side**3), shards.DTYPE)
            for row, place in zip(rows.flatten().tolist(), hu, strict=True):
                for scan, values in zip(self._scans, place, strict=True):
                    values[:] = scan[row]
            return torch.from_numpy(hu).view(shape)
        return self.on(device).index_select(0, rows.flatten().to(device)).view(shape)

    def on(self, device: torch.device | str) -> torch.Tensor:
        """All rows on a device other than the CPU, [R, S, voxels]; sent once."""
        if self._held is None:
            self._held = torch.from_numpy(np.stack(self._scans, axis=1)).to(device)
        return self._held


@dataclass(frozen=True)
class Batch:
    """One rank's share of one step, location-major.

    Shapes: anchor_rows_G, neighbour_rows_GK, rows of `patches`; locations_G, neighbour_locations_GK, scans_S,
    subjects_S; all int64. G anchor locations, S scans of this rank, K neighbours. `epoch` is the pass that they belong
    to.
    """

    patches: Patches
    anchor_rows_G: torch.Tensor
    neighbour_rows_GK: torch.Tensor
    locations_G: torch.Tensor
    neighbour_locations_GK: torch.Tensor
    scans_S: torch.Tensor
    subjects_S: torch.Tensor
    epoch: int

    def anchors(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The anchors' patches, int16 HU [G, S, D, H, W]."""
        return self.patches.take(self.anchor_rows_G, device)

    def neighbours(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The patches of each anchor's neighbours in the same scan, int16 HU [G, K, S, D, H, W]."""
        return self.patches.take(self.neighbour_rows_GK, device)


class Feed:
    """Batches of an epoch for one rank.

    Args:
        workspace: where the shards are.
        scans: the same list on every rank.
        atlas: blocks and neighbours.
        scans_per_batch: scans a step over all ranks, whatever their number; no more than there are. The shares of the
            ranks differ by one scan at most.
        locations_per_batch: anchors a step.
        seed: of the order.
        rank: this worker's place among `world` workers.
        world: how many workers share a step.
        own_blocks: whether each rank works on blocks of its own (`shares.blocks_of`), not all on the same.
        threads: that read and decompress; by default this process's share of the cores, at most four.
        device: where batches will be used; what was read is sent there ahead, too, by the threads that read.

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
        self.threads = threads or min(MOST_THREADS, max(1, (os.cpu_count() or 1) // world))
        self._extents: dict[
            int, list[parquet_pages.Extent]
        ] = {}  # kept in place of parsed footers, which are far larger
        self._places: dict[int, tuple[np.ndarray, int]] = {}
        self._ranges = ByteRanges(workspace)
        self.waited_s = 0.0

    def plan(self, epoch: int) -> list[Read]:
        """A pass in order: every scan and anchor once, except that the last group of scans is filled up."""
        mine = [self.rank] if self.own_blocks and self.rank else []
        rng = np.random.default_rng([self.seed, epoch, *mine])
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
        """Steps an epoch: the same for every epoch, every rank and any number of ranks."""
        return self._steps(range(self.atlas.num_blocks), self.batch)

    def _steps(self, blocks: Iterable[int], group: int) -> int:
        anchored = sum(-(-len(self.atlas.members(block)) // self.anchors) for block in blocks)
        return -(-len(self.scans) // group) * anchored

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from its `start_step`-th step on.

        With own blocks, a rank's pass over them may be shorter or longer than an epoch: it then goes on with its next
        pass, or later. So all ranks make the same number of steps, and none leaves anything out.
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

    def sample(self, epoch: int, count: int) -> Iterator[Batch]:
        """`count` single steps spread evenly over the epoch's reads, so that all blocks are seen."""
        plan = self.plan(epoch)
        chosen = np.linspace(0, len(plan) - 1, min(count, len(plan))).astype(int)
        yield from self._read_ahead([(plan[index], 0, 1) for index in chosen])

    def _read_ahead(self, work: list[tuple[Read, int, int]]) -> Iterator[Batch]:
        """The batches of all reads in order, of each those of its steps from one to before another."""
        todo = iter(work)
        asked: deque[tuple[Read, list[Pending]]] = deque()
        running: deque[Callable[[], Patches]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="read")

        def start() -> None:
            while len(asked) <= ASKED_AHEAD and (item := next(todo, None)) is not None:
                asked.append((item[0], self._ask(item[0])))
            if asked:
                running.append(self._unpacking(pool, *asked.popleft()))

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

    def _mine(self, read: Read) -> np.ndarray:
        return read.scans if self.own_blocks else read.scans[self.rank :: self.world]

    def _ask(self, read: Read) -> list[Pending]:
        """The bytes of a read's row groups, of this rank's scans, on their way."""
        takes, scan = [], -1
        try:
            for scan in self._mine(read):
                takes.append(self._ranges.request(self.scans[scan].scan_id, self._extent(scan, read.block)))
        except (parquet_pages.PageError, IndexError) as error:
            raise self._unfit(scan, error) from error
        return takes

    def _unpack(self, block: int, scans: np.ndarray, takes: Sequence[Pending]) -> list[np.ndarray]:
        """Some scans' patches of a block in `shards.row_order`, int16 [R, voxels] each: one range of each file."""
        width, found, scan = self.atlas.patch_size**3 * shards.DTYPE.itemsize, [], -1
        try:
            for scan, take in zip(scans, takes, strict=True):
                data = parquet_pages.read_rows(
                    take(),
                    self._extents[scan][block],
                    width=width,
                    footer=partial(shards.read_footer, self.scans[scan].footer),
                )
                found.append(data.view(shards.DTYPE))
        except parquet_pages.PageError as error:
            raise self._unfit(scan, error) from error
        return found

    def _unpacking(
        self, pool: ThreadPoolExecutor, read: Read, takes: Sequence[Pending]
    ) -> Callable[[], Patches]:
        """What returns a read's patches once the pool's threads have unpacked them, a part of the scans each."""
        mine = self._mine(read)
        size = -(-len(mine) // self.threads)
        parts = [
            pool.submit(self._unpack, read.block, mine[at : at + size], takes[at : at + size])
            for at in range(0, len(mine), size)
        ]

        def patches() -> Patches:
            found = Patches([scan for part in parts for scan in part.result()], self.atlas.patch_size)
            if self.device.type != "cpu":
                found.on(self.device)
            return found

        # To a device they are sent ahead, by a task that comes after those that it waits for.
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

    def _unfit(self, scan: int, error: Exception) -> StageError:
        return StageError(
            f"the shard of scan {self.scans[scan].scan_id} does not fit the atlas or this software: {error}",
            "Prepare the scan again: delete its shard and its row in the ledger, then run `drasclr prepare`",
            code="shard",
        )

    def _place(self, block: int) -> tuple[np.ndarray, int]:
        """Where a block's row group, the same for every scan, has each location, -1: nowhere; and how many it has."""
        if block not in self._places:
            order = shards.row_order(self.atlas, block)[0]
            place_N = np.full(self.atlas.num_locations, -1, np.int64)
            place_N[order] = np.arange(len(order))
            self._places[block] = place_N, len(order)
        return self._places[block]

    def _batches(self, read: Read, patches: Patches, steps: Iterable[np.ndarray]) -> Iterator[Batch]:
        mine, (place_N, _) = self._mine(read), self._place(read.block)
        scans_S = torch.from_numpy(mine.astype(np.int64))
        subjects_S = torch.tensor([self.scans[i].subject for i in mine], dtype=torch.int64)
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
