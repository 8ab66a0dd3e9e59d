"""The readers that `tests.benchmarks.feed` measures, and the data that they read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.dataset import shards
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace
from tests.benchmarks import realscans

if TYPE_CHECKING:
    from ctplatform.training.batch import Batch
    from ctplatform.training.runs import ScanEntry

SCANS_PER_BATCH, LOCATIONS_PER_BATCH = 16, 4


def write_data(root: Path, *, scans: int) -> dict[str, Any]:
    """All layouts of the same scans below `root`."""
    import webdataset

    source, atlas, usable = realscans.prepared(root / "prepared")
    hu = [shards.read_patches(source, row["scan_id"])[1] for row in usable]
    originals = [(h, 0) for h in hu]
    # More scans than there are real ones: the same patches some HU brighter.
    patches = [
        originals[s % len(hu)][0]
        if s < len(hu)
        else np.clip(hu[s % len(hu)] + np.int16(s // len(hu)), -1024, 240)
        for s in range(scans)
    ]
    sizes: dict[str, int] = {}
    entries: dict[str, list] = {}
    for name, level in shards.LEVELS.items():
        workspace, total, entries[name] = Workspace(root / name), 0, []
        for s, one in enumerate(patches):
            data, footer = shards.encode(
                scan_id=f"s{s:03d}",
                subject_id=f"p{s:03d}",
                hu_NDHW=np.ascontiguousarray(one, np.int16),
                inside_N=np.ones(len(one), np.float32),
                atlas=atlas,
                metadata={},
                level=level,
            )
            workspace.write_bytes(data, PATCHES, f"s{s:03d}.parquet")
            entries[name].append((f"s{s:03d}", s, footer.hex()))
            total += len(data)
        sizes[name] = total
    (root / "grouped").mkdir()
    (root / "tars").mkdir()
    for location in range(atlas.num_locations):
        np.save(
            root / "grouped" / f"{location}.npy", np.stack([p[location] for p in patches]).astype(np.int16)
        )
    for location in range(atlas.num_locations):
        near = atlas.neighbours_NK[location]
        with webdataset.TarWriter(str(root / "tars" / f"{location}.tar")) as tar:
            for s, one in enumerate(patches):
                names = {"anchor.npy": location, **{f"near{k}.npy": n for k, n in enumerate(near)}}
                tar.write(
                    {"__key__": f"s{s:03d}", **{n: one[at].astype(np.int16) for n, at in names.items()}}
                )
    (root / "atlas.json").write_text(json.dumps(atlas.to_json()), encoding="utf-8")
    (root / "entries.json").write_text(json.dumps(entries), encoding="utf-8")
    os.sync()
    raw = scans * atlas.num_locations * atlas.patch_size**3 * 2
    halo = sum(len(atlas.halo(b)) for b in range(atlas.num_blocks)) / atlas.num_locations
    return {"sizes": {k: v / raw for k, v in sizes.items()}, "halo": halo, "real": len(hu)}


def scan_entries(root: Path, name: str) -> list[ScanEntry]:
    """The scans whose shards `write_data` put into the folder of that name."""
    from ctplatform.training.runs import ScanEntry

    entries = json.loads((root / "entries.json").read_text(encoding="utf-8"))[name]
    return [ScanEntry(scan, subject, bytes.fromhex(footer)) for scan, subject, footer in entries]


class Engines:
    """One process's share of every way to read; each call is one pass and returns the number of anchors."""

    def __init__(self, root: Path, rank: int, world: int) -> None:
        import torch

        from ctplatform.training.feed import Feed
        from drasclr.atlas import Atlas

        torch.set_num_threads(1)
        self.root, self.rank, self.world = root, rank, world
        self.atlas = Atlas.load(root)
        self.feeds = {
            name: Feed(
                Workspace(root / name),
                scan_entries(root, name),
                self.atlas,
                scans_per_batch=SCANS_PER_BATCH,
                locations_per_batch=LOCATIONS_PER_BATCH,
                rank=rank,
                world=world,
            )
            for name in ("fast", "small")
        }
        self.footers = [shards.read_footer(e.footer) for e in self.feeds["fast"].scans]
        self.cold = False

    def mine(self) -> range:
        """This worker's locations, for peers that split by location."""
        return range(self.rank, self.atlas.num_locations, self.world)

    def release(self) -> None:
        """Unmap the shards: the kernel does not drop pages that a process has mapped."""
        from ctplatform.dataset.byte_ranges import ByteRanges

        for feed in self.feeds.values():
            feed._ranges = ByteRanges(feed.workspace)

    def run(self, name: str, *, cold: bool) -> int:
        """One pass."""
        self.cold = cold
        return {
            "ours": lambda: self.ours("fast"),
            "ours, small": lambda: self.ours("small"),
            "ours, copied": self.copied,
            "ours, scaled": self.scaled,
            "numpy": self.arrays,
            "numpy, loaded": self.loaded,
            "published loader": self.published,
            "WebDataset": self.tars,
            "scan": self.scan,
        }[name]()

    def ours(self, folder: str, use: Callable[[Batch], object] = lambda batch: None) -> int:
        """Our batches, and what is done with each."""
        count = 0
        for batch in self.feeds[folder].epoch(0):
            use(batch)
            count += len(batch.locations_G) * len(batch.scans_S)
        return count

    def copied(self) -> int:
        """Our batches, every patch copied to its place in a tensor of the batch."""
        return self.ours("fast", lambda batch: (batch.anchors(), batch.neighbours()))

    def scaled(self) -> int:
        """Our batches as the encoder takes them."""
        from drasclr.augment import normalise

        return self.ours("fast", lambda batch: (normalise(batch.anchors()), normalise(batch.neighbours())))

    def files(self, location: int) -> list[np.ndarray]:
        """The files of a location and of its neighbours in the published layout, [scans, ...] each."""
        names = [location, *self.atlas.neighbours_NK[location]]
        paths = [self.root / "grouped" / f"{name}.npy" for name in names]
        arrays = [np.load(path) for path in paths]
        if self.cold:
            for path in paths:
                forget(path)
        return arrays

    def load(self, location: int) -> tuple[np.ndarray, np.ndarray]:
        """[scans, ...] of the anchor, [k, scans, ...] of its neighbours."""
        anchors, *near = self.files(location)
        return anchors, np.concatenate([one[None] for one in near], axis=0)

    def loaded(self) -> int:
        """The files alone."""
        return sum(len(self.files(location)[0]) for location in self.mine())

    def arrays(self) -> int:
        """Arrays of a location over all scans, loaded whole; batches drawn from them."""
        import torch

        rng, count = np.random.default_rng(0), 0
        for location in self.mine():
            anchors, neighbours = self.load(location)
            order = rng.permutation(len(anchors))
            for start in range(0, len(order), SCANS_PER_BATCH):
                chosen = order[start : start + SCANS_PER_BATCH]
                torch.from_numpy(anchors[chosen]), torch.from_numpy(neighbours[:, chosen])
                count += len(chosen)
        return count

    def published(self) -> int:
        """The published data set's work on each sample, and torch's loader in this process."""
        from torch.utils.data import DataLoader, Dataset, DistributedSampler

        class Samples(Dataset):
            anchors: np.ndarray
            neighbours: np.ndarray

            def __len__(self) -> int:
                return len(self.anchors)

            def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
                return scale(self.anchors[index]), scale(self.neighbours[:, index])

        def scale(hu: np.ndarray) -> np.ndarray:
            return (np.clip(hu, -1024, 240) + 1024.0) / 632.0 - 1

        samples, count = Samples(), 0
        for location in range(self.atlas.num_locations):
            samples.anchors, samples.neighbours = self.load(location)
            sampler = DistributedSampler(samples, num_replicas=self.world, rank=self.rank)
            for anchors, _ in DataLoader(samples, SCANS_PER_BATCH // self.world, sampler=sampler):
                count += len(anchors)
        return count

    def tars(self) -> int:
        """WebDataset, one sample an anchor with its neighbours."""
        import torch
        import webdataset

        count, names = 0, [f"near{k}.npy" for k in range(self.atlas.neighbours_NK.shape[1])]
        urls = [str(self.root / "tars" / f"{location}.tar") for location in self.mine()]
        samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
        for batch in _batches(iter(samples), SCANS_PER_BATCH):
            torch.from_numpy(np.stack([sample["anchor.npy"] for sample in batch]))
            torch.from_numpy(np.stack([[sample[name] for sample in batch] for name in names]))
            count += len(batch)
        return count

    def scan(self) -> int:
        """Row groups by pyarrow, one thread; no batches."""
        feed, count = self.feeds["fast"], 0
        for read in feed.plan(0):
            for s in read.scans[self.rank :: self.world]:
                file = shards._open(feed.workspace, feed.scans[s].scan_id, self.footers[s])
                file.read_row_group(read.block, columns=["location", "home", "patch"], use_threads=False)
                count += len(self.atlas.members(read.block))
        return count


def _batches(samples: Iterator, size: int) -> Iterator[list]:
    batch = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def forget(path: Path) -> None:
    """Ask the kernel to forget one file's pages."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
