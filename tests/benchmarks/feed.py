"""Patches a second from storage into training batches: `python -m tests.benchmarks.feed`.

Same patches for all, int16 HU, anchors with their neighbours, in one run with repeats interleaved; the fastest counts.

int16 batches, as they leave storage:

- ours: `Feed` on shards, at the level they are written with and at zstd level 1; a batch is rows of the blocks that
  were read, from which training copies on its own device;
- ours, copied: the same, and anchors and neighbours copied out here, into arrays of the batch;
- numpy: the published layout, one .npy file a location over all scans; 1 + k files are loaded whole a location, the
  neighbours' arrays joined, batches indexed from them; each process takes its share of the locations;
- numpy, loaded: the same files loaded, nothing else done;
- WebDataset: tar files a location, a sample a scan with its anchor and neighbours as .npy;
- scan: a plain pyarrow loop over the same row groups, which makes no batches.

Training batches, scaled to [-1, 1], without augmentation on either side:

- ours, scaled: the same batches, then `drasclr.augment.normalise`, as embedding and training without augmentation do;
- published loader: the same .npy files and joins, then what the published data set does to each sample (clip, shift,
  scale) and torch's DataLoader in the training process, which is its default; with several processes each loads all
  scans of a location and serves its share of them, as its distributed sampler has it.

"Cold" asks the kernel to drop the files from its cache (posix_fadvise, DONTNEED) before each repeat. The published
layout reads every file 1 + k times an epoch, and a cohort's files are far larger than memory, so cold its files are
dropped again once they were loaded; shards are read once an epoch anyway. The column "read" says what really came
from the disk. Prints Markdown; `--write` puts it into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ctplatform import shards
from ctplatform.workspace import Workspace
from tests.benchmarks import document, realscans

SCANS_PER_BATCH, LOCATIONS_PER_BATCH = 16, 4
ENGINES = (
    *("ours", "ours, level 1", "numpy", "numpy, loaded", "WebDataset", "scan"),
    *("ours, copied", "ours, scaled", "published loader"),
)
FOLDERS = {
    "ours": "fast",
    "ours, level 1": "small",
    "ours, copied": "fast",
    "ours, scaled": "fast",
    "scan": "fast",
    "numpy": "grouped",
    "numpy, loaded": "grouped",
    "published loader": "grouped",
    "WebDataset": "tars",
}
AGAINST = {"published loader": "ours, scaled"}
"""Which of ours does the same work as a peer, where it is not "ours"."""
BARS = {"numpy": 3.0, "published loader": 3.0, "WebDataset": 1.0, "scan": 0.6}


def write_data(root: Path, *, scans: int, every: int) -> dict[str, Any]:
    """All layouts of the same scans below `root`; peers' files for every n-th block of locations."""
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
    for name, level in (("fast", shards.COMPRESSION_LEVEL), ("small", 1)):
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
            workspace.write_bytes(data, shards.FOLDER, f"s{s:03d}.parquet")
            entries[name].append((f"s{s:03d}", s, footer.hex()))
            total += len(data)
        sizes[name] = total
    blocks = list(range(0, atlas.num_blocks, every))
    locations = np.concatenate([atlas.members(b) for b in blocks])
    (root / "grouped").mkdir()
    (root / "tars").mkdir()
    for location in np.union1d(locations, atlas.neighbours_NK[locations].ravel()):
        np.save(
            root / "grouped" / f"{location}.npy", np.stack([p[location] for p in patches]).astype(np.int16)
        )
    for location in locations:
        near = atlas.neighbours_NK[location]
        with webdataset.TarWriter(str(root / "tars" / f"{location}.tar")) as tar:
            for s, one in enumerate(patches):
                names = {"anchor.npy": location, **{f"near{k}.npy": n for k, n in enumerate(near)}}
                tar.write(
                    {"__key__": f"s{s:03d}", **{n: one[at].astype(np.int16) for n, at in names.items()}}
                )
    (root / "atlas.json").write_text(json.dumps(atlas.to_json()), encoding="utf-8")
    plan = {"blocks": blocks, "locations": [int(n) for n in locations], "entries": entries, "scans": scans}
    (root / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    os.sync()
    raw = scans * atlas.num_locations * atlas.patch_size**3 * 2
    halo = sum(len(atlas.halo(b)) for b in range(atlas.num_blocks)) / atlas.num_locations
    return {"sizes": {k: v / raw for k, v in sizes.items()}, "halo": halo, "real": len(hu)}


class Engines:
    """One process's share of every way to read; each call is one pass and returns the number of anchors."""

    def __init__(self, root: Path, rank: int, world: int) -> None:
        import torch

        from ctplatform.feed import Feed, ScanEntry
        from drasclr.atlas import Atlas

        torch.set_num_threads(1)
        self.root, self.rank, self.world = root, rank, world
        self.plan = json.loads((root / "plan.json").read_text(encoding="utf-8"))
        self.atlas = Atlas.load(root)
        self.feeds = {}
        for name in ("fast", "small"):
            scans = [ScanEntry(a, b, bytes.fromhex(c)) for a, b, c in self.plan["entries"][name]]
            feed = Feed(
                Workspace(root / name),
                scans,
                self.atlas,
                scans_per_batch=SCANS_PER_BATCH,
                locations_per_batch=LOCATIONS_PER_BATCH,
                rank=rank,
                world=world,
            )
            whole = feed.plan(0)
            reads = [read for read in whole if read.block in self.plan["blocks"]]
            feed.plan = lambda epoch, reads=reads: reads  # type: ignore[method-assign, misc]
            self.feeds[name] = feed
        self.footers = [shards.read_footer(e.footer) for e in self.feeds["fast"].scans]
        self.cold = False

    def mine(self) -> list[int]:
        """This worker's locations, for peers that split by location."""
        return self.plan["locations"][self.rank :: self.world]

    def run(self, name: str, *, cold: bool) -> int:
        """One pass."""
        self.cold = cold
        return {
            "ours": lambda: self.ours("fast"),
            "ours, level 1": lambda: self.ours("small"),
            "ours, copied": self.copied,
            "ours, scaled": self.scaled,
            "numpy": self.arrays,
            "numpy, loaded": self.loaded,
            "published loader": self.published,
            "WebDataset": self.tars,
            "scan": self.scan,
        }[name]()

    def ours(self, folder: str) -> int:
        """Our batches."""
        count = 0
        for batch in self.feeds[folder].epoch(0):
            count += len(batch.locations_G) * len(batch.scans_S)
        return count

    def copied(self) -> int:
        """Our batches, every patch copied to its place in a tensor of the batch."""
        count = 0
        for batch in self.feeds["fast"].epoch(0):
            batch.anchors(), batch.neighbours()
            count += len(batch.locations_G) * len(batch.scans_S)
        return count

    def scaled(self) -> int:
        """Our batches as the encoder takes them."""
        from drasclr.augment import normalise

        count = 0
        for batch in self.feeds["fast"].epoch(0):
            normalise(batch.anchors()), normalise(batch.neighbours())
            count += len(batch.locations_G) * len(batch.scans_S)
        return count

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
        for location in self.plan["locations"]:
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


def _worker(root: str, rank: int, world: int, pipe: Connection) -> None:
    engines = Engines(Path(root), rank, world)
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        name, cold = order
        before, wall, cpu = _disk_bytes(), time.perf_counter(), time.process_time()
        count = engines.run(name, cold=cold)
        pipe.send((count, time.perf_counter() - wall, time.process_time() - cpu, _disk_bytes() - before))


def _disk_bytes() -> int:
    """Bytes that this process has had read from storage."""
    for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines():
        if line.startswith("read_bytes"):
            return int(line.split()[1])
    return 0


def drop(folder: Path) -> None:
    """Ask the kernel to forget the files' pages."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            forget(path)


def forget(path: Path) -> None:
    """Ask the kernel to forget one file's pages."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(
    root: Path, *, world: int, repeats: int, log: Callable[[str], None]
) -> dict[tuple[str, bool], dict]:
    """Fastest pass of each engine, cold and warm."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for rank in range(world):
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(str(root), rank, world, theirs))
        process.start()
        workers.append((process, ours))
    for _, pipe in workers:
        pipe.recv()
    best: dict[tuple[str, bool], dict] = {}
    for repeat in range(repeats + 1):
        for cold in (True, False):
            for name in ENGINES:
                if cold:
                    drop(root / FOLDERS[name])
                for _, pipe in workers:
                    pipe.send((name, cold))
                done = [pipe.recv() for _, pipe in workers]
                if repeat == 0:  # a first pass of each warms interpreters and allocators up
                    continue
                count, wall = sum(d[0] for d in done), max(d[1] for d in done)
                new = {
                    "rate": count / wall,
                    "cpu_us": sum(d[2] for d in done) / count * 1e6,
                    "read_mb": sum(d[3] for d in done) / 1e6,
                }
                old = best.setdefault((name, cold), {"rate": 0.0, "cpu_us": math.inf, "read_mb": 0.0})
                old["rate"], old["cpu_us"] = max(old["rate"], new["rate"]), min(old["cpu_us"], new["cpu_us"])
                old["read_mb"] = max(old["read_mb"], new["read_mb"])
                log(
                    f"{world} x {name}, {'cold' if cold else 'warm'}: {new['rate']:.0f}/s, {new['cpu_us']:.0f} us"
                )
    for process, pipe in workers:
        pipe.send(None)
        process.join()
    return best


def rows_of(best: dict[tuple[str, bool], dict], world: int) -> list[list[str]]:
    """Lines of the table."""
    rows = []
    for cold in (True, False):
        for name in ENGINES:
            mine = AGAINST.get(name, "ours")
            this, ours = best[name, cold], best[mine, cold]
            ratio = ours["rate"] / this["rate"]
            cpu = this["cpu_us"] / ours["cpu_us"]
            least = BARS.get(name)
            bar = f">= {least:g}x: {'yes' if ratio >= least else 'no'}" if least else ""
            case = f"{world} process{'es' if world > 1 else ''}, {'cold' if cold else 'warm'}"
            rows.append(
                [
                    case,
                    name,
                    f"{this['rate']:,.0f}",
                    f"{this['cpu_us']:.0f}",
                    f"{this['read_mb']:,.0f}" if cold else "",
                    "" if name == mine or name.startswith("ours, s") else f"{ratio:.2g}x",
                    "" if name == mine or name.startswith("ours, s") else f"{cpu:.2g}x",
                    bar,
                ]
            )
    return rows


def main() -> None:
    """Write the data, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=32, help="a multiple of 16")
    parser.add_argument("--every", type=int, default=4, help="serve every n-th block of locations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", help="folder for the data; reused if it is there (default: temporary)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.data or temporary) / "feed"
        if not (root / "facts.json").exists():
            facts = write_data(root, scans=options.scans, every=options.every)
            (root / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        facts = json.loads((root / "facts.json").read_text(encoding="utf-8"))
        rows = []
        for world in (1, 2):
            best = measure(
                root, world=world, repeats=options.repeats, log=lambda text: print(text, file=sys.stderr)
            )
            rows += rows_of(best, world)
    table = document.table(
        ["case", "reader", "anchors/s", "CPU us/anchor", "read, MB", "ours is", "by CPU", "bar"], rows
    )
    text = "\n".join(
        [
            f"`python -m tests.benchmarks.feed`: {options.scans} scans ({facts['real']} real CTs; the others repeat",
            "their patches some HU brighter), 581 locations of the published atlas, of which every",
            f"{options.every}th block is served. An anchor is 1 + 2 patches of 32^3; batches of {SCANS_PER_BATCH}",
            f"scans x {LOCATIONS_PER_BATCH} locations, int16 HU; fastest of {options.repeats} interleaved passes.",
            "Ours reads with as",
            "many threads as there are cores for a process; the peers have none.",
            f"{realscans.machine()}, load average {os.getloadavg()[1]:.0f}.",
            "",
            table,
            "",
            f"On disk, of the raw bytes of every location once: level {shards.COMPRESSION_LEVEL} "
            f"{facts['sizes']['fast']:.2f}, level 1",
            f"{facts['sizes']['small']:.2f}; the published layout 1.00, the tar files 3.0. The halo is "
            f"{facts['halo']:.1%} of the patches.",
        ]
    )
    print(text)
    if options.write:
        document.replace(Path(__file__).parents[2] / "docs" / "benchmarks.md", "Feed", text)


if __name__ == "__main__":
    main()
