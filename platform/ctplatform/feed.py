"""Shards to training batches: one block, several scans, a few anchor locations, neighbours included.

The order of an epoch is a pure function of (seed, epoch), so a run resumes at any step without reading what came
before. A read takes one row group from each of `scans_per_batch` scans; its anchors are then served
`locations_per_batch` at a time, and a thread reads ahead. Training reads row groups with plain pyarrow: a Ray Data
pipeline over the same files was measured at a quarter of that rate or less.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import torch

from ctplatform import shards
from ctplatform.errors import StageError
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

READ_AHEAD = 2  # blocks; a block of 16 scans x 40 patches is 40 MiB


@dataclass(frozen=True)
class ScanEntry:
    """A scan that is trained on. `subject` numbers the subjects; two scans of one subject share it."""

    scan_id: str
    subject: int
    footer: bytes


@dataclass(frozen=True)
class Read:
    """Row groups to read together: one block of several scans, and the anchors of each step served from it."""

    block: int
    scans: np.ndarray
    steps: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Batch:
    """One rank's share of one step, location-major.

    Shapes: anchors_GSDHW int16 HU; neighbours_GKSDHW int16 HU; locations_G, neighbour_locations_GK, scans_S,
    subjects_S int64. G anchor locations, S scans of this rank, K neighbours.
    """

    anchors_GSDHW: torch.Tensor
    neighbours_GKSDHW: torch.Tensor
    locations_G: torch.Tensor
    neighbour_locations_GK: torch.Tensor
    scans_S: torch.Tensor
    subjects_S: torch.Tensor


class Feed:
    """Batches of an epoch for one rank.

    Args:
        workspace: where the shards are.
        scans: the same list on every rank.
        atlas: blocks and neighbours.
        scans_per_batch: scans a step over all ranks; no more than there are, rounded down to a multiple of `world`.
        locations_per_batch: anchors a step.
        seed: of the order.
        rank: this worker's place among `world` workers.
        world: how many workers share a step.

    Raises:
        StageError: fewer scans than workers.
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
    ) -> None:
        if len(scans) < world:
            raise StageError(
                f"{len(scans)} scans cannot feed {world} workers",
                "Set pretrain.num_workers lower",
                code="few-scans",
            )
        self.workspace, self.scans, self.atlas = workspace, list(scans), atlas
        self.batch = min(scans_per_batch, len(self.scans)) // world * world
        if self.batch == 0:
            raise StageError(
                f"pretrain.scans_per_batch={scans_per_batch} is less than {world} workers",
                "Set it to a multiple of pretrain.num_workers",
                code="config",
            )
        self.anchors, self.seed, self.rank, self.world = locations_per_batch, seed, rank, world
        self._footers: dict[int, pq.FileMetaData] = {}
        self.waited_s = 0.0

    def plan(self, epoch: int) -> list[Read]:
        """The epoch's reads in order: every scan and anchor once, except that the last group of scans is filled up."""
        rng = np.random.default_rng([self.seed, epoch])
        reads = []
        for block in range(self.atlas.num_blocks):
            scans = rng.permutation(len(self.scans))
            members = self.atlas.members(block)
            for start in range(0, len(scans), self.batch):
                group = scans[start : start + self.batch]
                group = np.concatenate([group, scans[: self.batch - len(group)]])
                anchors = rng.permutation(members)
                steps = tuple(anchors[i : i + self.anchors] for i in range(0, len(anchors), self.anchors))
                reads.append(Read(block, group, steps))
        return [reads[i] for i in rng.permutation(len(reads))]

    def steps_per_epoch(self) -> int:
        """Steps an epoch, the same for every epoch and rank."""
        groups = -(-len(self.scans) // self.batch)
        return groups * sum(
            -(-len(self.atlas.members(b)) // self.anchors) for b in range(self.atlas.num_blocks)
        )

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from its `start_step`-th step on."""
        work: list[tuple[Read, int]] = []
        skip = start_step
        for read in self.plan(epoch):
            if skip < len(read.steps):
                work.append((read, skip))
            skip = max(0, skip - len(read.steps))
        for (read, first), blocks in self._read_ahead(work):
            for anchors in read.steps[first:]:
                yield self._assemble(read, blocks, anchors)

    def sample(self, epoch: int, count: int) -> Iterator[Batch]:
        """`count` single steps spread evenly over the epoch's reads, so that all blocks are seen."""
        plan = self.plan(epoch)
        for index in np.linspace(0, len(plan) - 1, min(count, len(plan))).astype(int):
            read = plan[index]
            blocks = [self._read(scan, read.block) for scan in self._mine(read)]
            yield self._assemble(read, blocks, read.steps[0])

    def _read_ahead(
        self, work: list[tuple[Read, int]]
    ) -> Iterator[tuple[tuple[Read, int], list[shards.Block]]]:
        ready: queue.Queue = queue.Queue(maxsize=READ_AHEAD)
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
                for item in work:
                    if not put((item, [self._read(scan, item[0].block) for scan in self._mine(item[0])])):
                        return
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

    def _mine(self, read: Read) -> np.ndarray:
        return read.scans[self.rank :: self.world]

    def _read(self, scan: int, block: int) -> shards.Block:
        entry = self.scans[scan]
        if scan not in self._footers:
            self._footers[scan] = shards.read_footer(entry.footer)
        return shards.read_block(self.workspace, entry.scan_id, block, footer=self._footers[scan])

    def _assemble(self, read: Read, blocks: list[shards.Block], anchors: np.ndarray) -> Batch:
        neighbours = self.atlas.neighbours_NK[anchors]
        # A block's rows are the same for every scan, so one look-up serves all.
        row_of = {int(location): row for row, location in enumerate(blocks[0].locations_N)}
        anchor_rows = [row_of[int(a)] for a in anchors]
        neighbour_rows = [[row_of[int(n)] for n in near] for near in neighbours]
        mine = self._mine(read)
        side = self.atlas.patch_size
        anchors_GSDHW = np.stack([[block.hu_NDHW[row] for block in blocks] for row in anchor_rows])
        if neighbours.shape[1]:
            neighbours_GKSDHW = np.stack(
                [[[block.hu_NDHW[row] for block in blocks] for row in rows] for rows in neighbour_rows]
            )
        else:
            neighbours_GKSDHW = np.zeros((len(anchors), 0, len(blocks), side, side, side), np.int16)
        return Batch(
            anchors_GSDHW=torch.from_numpy(anchors_GSDHW),
            neighbours_GKSDHW=torch.from_numpy(neighbours_GKSDHW),
            locations_G=torch.from_numpy(anchors.astype(np.int64)),
            neighbour_locations_GK=torch.from_numpy(neighbours.astype(np.int64)),
            scans_S=torch.from_numpy(mine.astype(np.int64)),
            subjects_S=torch.tensor([self.scans[i].subject for i in mine], dtype=torch.int64),
        )
