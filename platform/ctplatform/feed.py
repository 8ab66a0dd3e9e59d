"""Shards to training batches: one block, several scans, a few anchor locations, neighbours included.

The order of an epoch is a pure function of (seed, epoch), so a run resumes at any step without reading what came
before. A step's scans are divided over the workers; either all of them work on the same anchor locations, or each on
those of its own blocks, through which it passes again and again. A read takes one row group from each of the scans of
a step; its anchors are then served `locations_per_batch` at a time. Threads read and decompress the next row groups
while one more thread puts together the next batches, so that who trains finds them ready.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctplatform import pages, shards, shares
from ctplatform.errors import StageError
from ctplatform.workspace import Workspace
from drasclr.gather import share

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

READS_AHEAD = 1  # beside the one that batches are made of; 16 scans x 27 patches are 27 MiB
BATCHES_AHEAD = 2
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


@dataclass(frozen=True)
class Batch:
    """One rank's share of one step, location-major.

    Shapes: anchors_GSDHW int16 HU; neighbours_GKSDHW int16 HU; locations_G, neighbour_locations_GK, scans_S,
    subjects_S int64. G anchor locations, S scans of this rank, K neighbours. `epoch` is the pass that they belong to.
    """

    anchors_GSDHW: torch.Tensor
    neighbours_GKSDHW: torch.Tensor
    locations_G: torch.Tensor
    neighbour_locations_GK: torch.Tensor
    scans_S: torch.Tensor
    subjects_S: torch.Tensor
    epoch: int


class Buffers:
    """Memory of batches that nobody holds any more, for the next ones: fresh pages cost as much as filling them."""

    def __init__(self) -> None:
        self._free: dict[int, deque[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An int16 array of any content. Its memory comes back by itself when it and all tensors on it are gone."""
        size = math.prod(shape)
        free = self._free.setdefault(size, deque(maxlen=BATCHES_AHEAD + 2))
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size, shards.DTYPE)
        array = memory.reshape(shape)
        weakref.finalize(array, free.append, memory).atexit = False
        return array


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
    ) -> None:
        self.batch = shares.batch_size(scans_per_batch, len(scans), world)
        self.workspace, self.scans, self.atlas = workspace, list(scans), atlas
        self.blocks = shares.blocks_of(atlas, rank, world) if own_blocks else tuple(range(atlas.num_blocks))
        self.own_blocks = own_blocks
        self._group = share(rank, world, self.batch) if own_blocks else self.batch
        self.anchors, self.seed, self.rank, self.world = locations_per_batch, seed, rank, world
        self.threads = threads or min(MOST_THREADS, max(1, (os.cpu_count() or 1) // world))
        self._extents: dict[
            int, list[pages.Extent]
        ] = {}  # kept in place of parsed footers, which are far larger
        self._row_orders: dict[int, np.ndarray] = {}
        self._buffers = Buffers()
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
        for index in np.linspace(0, len(plan) - 1, min(count, len(plan))).astype(int):
            read = plan[index]
            patches = [self._read(scan, read.block) for scan in self._mine(read)]
            yield self._assemble(read, patches, read.steps[0])

    def _read_ahead(self, work: list[tuple[Read, int, int]]) -> Iterator[Batch]:
        ready: queue.Queue = queue.Queue(maxsize=BATCHES_AHEAD)
        stop = threading.Event()

        def put(item: object) -> bool:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    return True
                except queue.Full:
                    continue
            return False

        def run() -> None:
            try:
                with ThreadPoolExecutor(self.threads, thread_name_prefix="read") as pool:
                    try:
                        self._produce(work, pool, put)
                    finally:
                        pool.shutdown(wait=False, cancel_futures=True)
                put(None)
            except BaseException as error:  # handed over: the training loop must see it
                put(error)

        thread = threading.Thread(target=run, name="feed", daemon=True)
        thread.start()
        try:
            while True:
                start = time.perf_counter()
                item = ready.get()
                self.waited_s += time.perf_counter() - start
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def _produce(
        self, work: list[tuple[Read, int, int]], pool: ThreadPoolExecutor, put: Callable[[object], bool]
    ) -> None:
        """All batches in order into `put`, until it refuses; the reads of what comes next go on meanwhile."""
        todo, running = iter(work), deque[tuple]()

        def start() -> None:
            for read, first, stop in todo:
                reading = [pool.submit(self._read, scan, read.block) for scan in self._mine(read)]
                running.append((read, read.steps[first:stop], reading))
                return

        for _ in range(READS_AHEAD):
            start()
        while running:
            read, steps, reading = running.popleft()
            start()
            patches = [future.result() for future in reading]
            for anchors in steps:
                if not put(self._assemble(read, patches, anchors)):
                    return

    def _mine(self, read: Read) -> np.ndarray:
        return read.scans if self.own_blocks else read.scans[self.rank :: self.world]

    def _read(self, scan: int, block: int) -> np.ndarray:
        """One scan's patches of a block in `shards.row_order`, as bytes [R, patch]: one range of its file."""
        entry, width = self.scans[scan], self.atlas.patch_size**3 * shards.DTYPE.itemsize
        try:
            if scan not in self._extents:
                footer = shards.read_footer(entry.footer)
                self._extents[scan] = [
                    pages.Extent.of(footer, group, "patch") for group in range(footer.num_row_groups)
                ]
            extent = self._extents[scan][block]
            if extent.values != len(self._rows(block)):
                raise pages.PageError(
                    f"block {block} has {extent.values} rows, {len(self._rows(block))} expected"
                )
            return pages.rows(shards.read_range(self.workspace, entry.scan_id, extent), extent, width=width)
        except (pages.PageError, IndexError) as error:
            raise StageError(
                f"the shard of scan {entry.scan_id} does not fit the atlas or this software: {error}",
                "Prepare the scan again: delete its shard and its row in the ledger, then run `drasclr prepare`",
                code="shard",
            ) from error

    def _rows(self, block: int) -> np.ndarray:
        if block not in self._row_orders:
            self._row_orders[block] = shards.row_order(self.atlas, block)[0]
        return self._row_orders[block]

    def _assemble(self, read: Read, patches: list[np.ndarray], anchors: np.ndarray) -> Batch:
        neighbours = self.atlas.neighbours_NK[anchors]
        # A block's rows are the same for every scan, so one look-up serves all.
        row_of = {int(location): row for row, location in enumerate(self._rows(read.block))}
        mine = self._mine(read)

        def gather(locations: np.ndarray) -> torch.Tensor:
            side = self.atlas.patch_size
            hu = self._buffers.take((locations.size * len(patches), side**3))
            rows = [row_of[int(location)] for location in locations.ravel()]
            bytes_, index = hu.view(np.uint8), 0
            for row in rows:
                for scan in patches:
                    bytes_[index] = scan[row]
                    index += 1
            return torch.from_numpy(hu).view(*locations.shape, len(patches), side, side, side)

        return Batch(
            anchors_GSDHW=gather(anchors),
            neighbours_GKSDHW=gather(neighbours),
            locations_G=torch.from_numpy(anchors.astype(np.int64)),
            neighbour_locations_GK=torch.from_numpy(neighbours.astype(np.int64)),
            scans_S=torch.from_numpy(mine.astype(np.int64)),
            subjects_S=torch.tensor([self.scans[i].subject for i in mine], dtype=torch.int64),
            epoch=read.epoch,
        )
