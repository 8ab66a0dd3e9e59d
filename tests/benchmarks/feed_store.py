"""The feed from an object store that takes its time: `python -m tests.benchmarks.feed_store --data FOLDER`.

FOLDER is one that `tests.benchmarks.feed --data FOLDER` has written. A store on loopback, in a process of its own,
holds its shards and answers every request late, by as much as a store in a data centre does; how many requests are
under way at a time, and how shards are packed (`prepare.shards.compression`), is compared in one run. The store is
Python and serves no more than some hundred megabytes a second, so the last rows may be its limit and not the feed's.
Prints Markdown; `--write` puts it into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from ctplatform.dataset.shards import LEVELS
from tests.benchmarks import document, realscans
from tests.benchmarks.feed_engines import LOCATIONS_PER_BATCH, SCANS_PER_BATCH, scan_entries

SCANS, STEPS = 16, 72


def serve(folder: Path, latency_s: float, pipe: Connection) -> None:
    """The store, until standard input ends."""
    from tests.ctplatform.objectstore import ObjectStore

    store = ObjectStore()
    for name in LEVELS:
        store.load(folder / name / "patches", f"{name}/patches")
    for method in ("GET", "HEAD"):
        store.fail(method, "", times=10**9, status=0, seconds=latency_s)
    pipe.send({name: store.uri(name) for name in LEVELS})
    pipe.recv()


def rate(uri: str, root: Path, fetchers: int, name: str) -> float:
    """Anchors a second of the first reads of an epoch, after a few steps that open the shards."""
    from ctplatform.dataset import byte_ranges
    from ctplatform.storage.workspace import Workspace
    from ctplatform.training.feed import Feed
    from drasclr.atlas import Atlas

    byte_ranges.FETCHERS = fetchers
    feed = Feed(
        Workspace(uri),
        scan_entries(root, name)[:SCANS],
        Atlas.load(root),
        scans_per_batch=SCANS_PER_BATCH,
        locations_per_batch=LOCATIONS_PER_BATCH,
    )
    for _ in itertools.islice(feed.epoch(1), 2):
        pass
    start = time.perf_counter()
    count = sum(len(b.locations_G) * len(b.scans_S) for b in itertools.islice(feed.epoch(0), STEPS))
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder that tests.benchmarks.feed has written")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "test")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    root = Path(options.data) / "feed"
    ours, theirs = multiprocessing.Pipe()
    store = multiprocessing.get_context("spawn").Process(target=serve, args=(root, options.latency, theirs))
    store.start()
    uris = ours.recv()
    cases = [*(("fast", fetchers) for fetchers in (1, 2, 4, 16)), ("small", 16)]
    best = dict.fromkeys(cases, 0.0)
    for _, case in itertools.product(range(options.repeats), cases):
        name, fetchers = case
        best[case] = max(best[case], rate(uris[name], root, fetchers, name))
    ours.send(None)
    store.join()
    one = best["fast", 1]
    rows = [[name, str(n), f"{best[name, n]:,.0f}", f"{best[name, n] / one:.1f}x"] for name, n in cases]
    text = "\n".join(
        [
            f"`python -m tests.benchmarks.feed_store --data FOLDER`: {SCANS} scans in a store on loopback that answers",
            f"after {1000 * options.latency:.0f} ms; {STEPS} steps, fastest of {options.repeats} interleaved passes.",
            f"{realscans.machine()}, load average {os.getloadavg()[1]:.0f}.",
            "",
            document.table(["compression", "requests at a time", "anchors/s", "of the first"], rows),
        ]
    )
    print(text)
    if options.write:
        document.replace("Feed from an object store", text)


if __name__ == "__main__":
    main()
