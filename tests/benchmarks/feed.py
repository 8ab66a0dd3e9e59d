"""Patches a second from storage into training batches: `python -m tests.benchmarks.feed`.

Same patches for all, int16 HU, anchors with their neighbours, in one run with repeats interleaved; the fastest counts.

int16 batches, as they leave storage:

- ours: `Feed` on shards, written with `prepare.shards.compression` fast and small; a batch is rows of the blocks that
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

Each reader has processes of its own, so that none works with memory that another one left to the allocator. "Cold"
asks the kernel to drop the files from its cache (posix_fadvise, DONTNEED) before each repeat. The published layout
reads every file 1 + k times an epoch, and a cohort's files are far larger than memory, so cold its files are dropped
again once they were loaded; shards are read once an epoch anyway. The column "read" says what really came from the
disk. "Warm" comes right after a pass that is not timed and drops nothing. Prints Markdown; `--write` puts it into
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from ctplatform.dataset import shards
from tests.benchmarks import document, realscans
from tests.benchmarks.feed_engines import LOCATIONS_PER_BATCH, SCANS_PER_BATCH, Engines, forget, write_data

ENGINES = (
    *("ours", "ours, small", "numpy", "numpy, loaded", "WebDataset", "scan"),
    *("ours, copied", "ours, scaled", "published loader"),
)
FOLDERS = {
    "ours": "fast",
    "ours, small": "small",
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


def _worker(root: str, name: str, rank: int, world: int, pipe: Connection) -> None:
    engines = Engines(Path(root), rank, world)
    pipe.send("ready")
    while (cold := pipe.recv()) is not None:
        if cold == "release":
            pipe.send(engines.release())
            continue
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


def measure(
    root: Path, *, world: int, repeats: int, log: Callable[[str], None]
) -> dict[tuple[str, bool], dict]:
    """Fastest pass of each engine, cold and warm."""
    context = multiprocessing.get_context("spawn")
    workers: dict[str, list] = {name: [] for name in ENGINES}
    for name, rank in itertools.product(ENGINES, range(world)):
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(str(root), name, rank, world, theirs))
        process.start()
        workers[name].append((process, ours))
    for _, pipe in itertools.chain(*workers.values()):
        pipe.recv()

    def run(name: str, cold: bool) -> dict[str, float]:
        for _, pipe in workers[name]:
            pipe.send(cold)
        done = [pipe.recv() for _, pipe in workers[name]]
        count, wall = sum(d[0] for d in done), max(d[1] for d in done)
        return {
            "rate": count / wall,
            "cpu_us": sum(d[2] for d in done) / count * 1e6,
            "read_mb": sum(d[3] for d in done) / 1e6,
        }

    def release(name: str) -> None:
        for _, pipe in workers[name]:
            pipe.send("release")
            pipe.recv()

    best: dict[tuple[str, bool], dict] = {}
    for _ in range(repeats):
        for name in ENGINES:
            run(name, False)
            warm = run(name, False)
            release(name)
            drop(root / FOLDERS[name])
            cold_pass = run(name, True)
            release(name)
            for cold, new in ((False, warm), (True, cold_pass)):
                old = best.setdefault((name, cold), {"rate": 0.0, "cpu_us": math.inf, "read_mb": 0.0})
                old["rate"], old["cpu_us"] = max(old["rate"], new["rate"]), min(old["cpu_us"], new["cpu_us"])
                old["read_mb"] = max(old["read_mb"], new["read_mb"])
                log(
                    f"{world} x {name}, {'cold' if cold else 'warm'}: {new['rate']:.0f}/s, {new['cpu_us']:.0f} us"
                )
    for process, pipe in itertools.chain(*workers.values()):
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
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", help="folder for the data; reused if it is there (default: temporary)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.data or temporary) / "feed"
        if not (root / "facts.json").exists():
            facts = write_data(root, scans=options.scans)
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
            "their patches some HU brighter), 581 locations of the published atlas. An anchor is 1 + 2 patches of",
            f"32^3; batches of {SCANS_PER_BATCH} scans x {LOCATIONS_PER_BATCH} locations, int16 HU; fastest of",
            f"{options.repeats} interleaved passes over all of them.",
            "Ours reads with as",
            "many threads as there are cores for a process; the peers have none.",
            f"{realscans.machine()}, load average {os.getloadavg()[1]:.0f}.",
            "",
            table,
            "",
            f"On disk, of the raw bytes of every location once: fast (zstd {shards.LEVELS['fast']}) "
            f"{facts['sizes']['fast']:.2f}, small (zstd {shards.LEVELS['small']})",
            f"{facts['sizes']['small']:.2f}; the published layout 1.00, the tar files 3.0. The halo is "
            f"{facts['halo']:.1%} of the patches.",
        ]
    )
    print(text)
    if options.write:
        document.replace("Feed", text)


if __name__ == "__main__":
    main()
