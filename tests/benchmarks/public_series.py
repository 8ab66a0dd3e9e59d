"""Preparing scans out of a public bucket: `python -m tests.benchmarks.public_series`.

A store on loopback, in a process of its own, holds DICOM series as the Imaging Data Commons does (BUCKET/UUID/*.dcm)
and answers every request late, as a store in the same region does. Worker processes run `prepare_scan` on them with an
empty cache: two; and four of which two compute at a time while the others fetch ahead (prepare.prefetch 1).
Compared, in turns of one run: the same series on the local disk, which the kernel is asked to drop from its page cache
before each turn, since a cohort is larger than memory; the same files in memory; and all series copied before the
first is prepared.
The series are the real CT with the most slices, written as DICOM. Prints Markdown; `--write` puts it into
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow.fs as pafs

from tests.benchmarks import document, realscans
from tests.benchmarks.feed_engines import forget

SECTION = "From a public bucket"
BAR = 0.8
LOCAL, MEMORY = "local disk, two workers", "the same files in memory, two workers"
FETCHED = "public bucket, two workers, nothing fetched ahead"
AHEAD = "public bucket, two workers, prefetch 1"
COPIED = "all series copied with pyarrow, then prepared, two workers"
BUCKET = "idc-open-data"


def serve(folder: Path, keys: list[str], latency_s: float, pipe: Connection) -> None:
    """The store, until a message comes; then its CPU-seconds."""
    from tests.ctplatform.objectstore import ObjectStore, Stored

    store = ObjectStore(BUCKET)
    images = {file.name: Stored(file.read_bytes()) for file in folder.iterdir()}
    store.objects = {f"{key}/{name}": image for key in keys for name, image in images.items()}
    for method in ("GET", "HEAD"):
        store.fail(method, "", times=10**9, status=0, seconds=latency_s)
    pipe.send(store.query)
    while pipe.recv() != "end":
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(used.ru_utime + used.ru_stime)


def start(workspace: str) -> None:
    """What a worker does once: import libraries and read the atlas."""
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.storage.workspace import Workspace

    os.environ["OMP_NUM_THREADS"] = "1"
    read_atlas(Workspace(workspace))


def prepare_one(job: tuple[str, str, str, str, int]) -> float:
    """CPU-seconds of one scan."""
    from ctplatform.preparation.scan import prepare_scan
    from ctplatform.storage.workspace import Workspace

    workspace, scan_id, path, cache, slots = job
    os.environ["DRASCLR_CACHE"] = cache
    recipe = realscans.recipe_of(realscans.folders()[1])
    item = {
        "scan_id": scan_id,
        "subject_id": scan_id,
        "path": path,
        "series_uid": "",
        "fingerprint": "",
        "slots": slots,
    }
    row = prepare_scan(Workspace(workspace), item, recipe.prepare, config_hash="benchmark")
    assert row["state"] == "accepted", (row["code"], row["reason"])
    return float(row["cpu_seconds"])


def copied(uri: str, target: Path) -> None:
    """One series, as file-system clients fetch it."""
    remote, inner = pafs.FileSystem.from_uri(uri)
    target.mkdir()
    pafs.copy_files(
        inner, str(target), source_filesystem=remote, destination_filesystem=pafs.LocalFileSystem()
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", type=float, default=0.03, help="seconds before each answer")
    parser.add_argument("--series", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    from ctplatform.imaging.dicom_writer import write_dicom_series
    from ctplatform.imaging.volume import read_volume
    from ctplatform.preparation.atlas import atlas
    from ctplatform.storage.workspace import Workspace

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "test")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    ct, atlas_folder = realscans.folders()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        volumes = [
            read_volume(item["path"], series_uid=item["series_uid"] or None) for item in realscans.items(ct)
        ]
        tallest = max(volumes, key=lambda v: v.image.GetSize()[0] * v.image.GetSize()[2])
        write_dicom_series(tallest.image, root / "series")
        slices = sorted((root / "series").iterdir())
        size = sum(file.stat().st_size for file in slices)
        del volumes
        keys = [str(uuid.UUID(int=n)) for n in range(options.series)]
        for key in keys:  # files of their own: a cache of the disk must not make one series of them
            (root / "local" / key).mkdir(parents=True)
            for file in slices:
                (root / "local" / key / file.name).write_bytes(file.read_bytes())
        os.sync()  # pages that are not on the disk yet cannot be dropped
        ours, theirs = context.Pipe()
        store = context.Process(target=serve, args=(root / "series", keys, options.latency, theirs))
        store.start()
        query = ours.recv()
        atlas(Workspace(root / "workspace"), None, realscans.recipe_of(atlas_folder))
        pools = {count: context.Pool(count, start, (str(root / "workspace"),)) for count in (2, 4)}

        def prepared(workers: int, path: Callable[[str], str]) -> tuple[float, float]:
            """Seconds and mean CPU-seconds of all series."""
            cache = tempfile.mkdtemp(prefix="cache-", dir=root)
            slots = 2 if workers > 2 else 0
            jobs = [(str(root / "workspace"), f"s{n}", path(key), cache, slots) for n, key in enumerate(keys)]
            begin = time.perf_counter()
            cpu = pools[workers].map(prepare_one, jobs, chunksize=1)
            seconds = time.perf_counter() - begin
            shutil.rmtree(cache)
            return seconds, statistics.mean(cpu)

        def copied_first(workers: int) -> tuple[float, float]:
            begin = time.perf_counter()
            folder = Path(tempfile.mkdtemp(prefix="copied-", dir=root))
            for key in keys:
                copied(f"s3://{BUCKET}/{key}{query}", folder / key)
            spent = time.perf_counter() - begin
            seconds, cpu = prepared(workers, lambda key: str(folder / key))
            shutil.rmtree(folder)
            return spent + seconds, cpu

        def local(*, in_memory: bool) -> tuple[float, float]:
            for file in (root / "local").glob("*/*"):
                if in_memory:
                    file.read_bytes()
                else:
                    forget(file)
            return prepared(2, lambda key: str(root / "local" / key))

        def public(workers: int) -> tuple[float, float]:
            return prepared(workers, lambda key: f"s3://{BUCKET}/{key}{query}")

        ways: dict[str, Callable[[], tuple[float, float]]] = {
            LOCAL: lambda: local(in_memory=False),
            MEMORY: lambda: local(in_memory=True),
            FETCHED: lambda: public(2),
            AHEAD: lambda: public(4),
            COPIED: lambda: copied_first(2),
        }
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for name in (LOCAL, AHEAD):  # processes start, libraries are imported
            ways[name]()
        order = list(ways)
        for _ in range(options.repeats):
            for name in order:
                ours.send("")
                before = ours.recv()
                seconds, cpu = ways[name]()
                ours.send("")
                found[name].append((seconds, cpu, ours.recv() - before))
            order = order[1:] + order[:1]  # so that what the machine loses or gains meanwhile falls on each
        ours.send("end")
        for pool in pools.values():
            pool.close()
            pool.join()
        store.join()
    disk = [seconds for seconds, _, _ in found[LOCAL]]
    rows = []
    for name, runs in found.items():
        seconds = statistics.median(r[0] for r in runs)
        ratios = [base / r[0] for base, r in zip(disk, runs, strict=True)]
        cpu, served = (statistics.median(r[i] for r in runs) for i in (1, 2))
        rows.append(
            [
                name,
                f"{options.series / seconds * 60:.1f}",
                f"{statistics.median(disk) / seconds:.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                f"{cpu:.2f}",
                f"{served / options.series:.2f}",
            ]
        )
    text = "\n".join(
        [
            f"`python -m tests.benchmarks.public_series --series {options.series} --repeats {options.repeats}`:",
            f"{options.series} DICOM series of {len(slices)} images and {size / 1e6:.0f} MB",
            f"from a store on loopback that answers each request after {options.latency * 1000:.0f} ms, with an empty",
            f"cache; median of {options.repeats} turns, each in another order. The store is Python and runs on the",
            f"same cores; its CPU time is in the last column. Bar: {BAR:g} of the speed of the local disk.",
            f"{realscans.machine()}, load average {os.getloadavg()[1]:.0f}.",
            "",
            document.table(
                ["way", "scans a minute", "of the disk", "by turn", "CPU-s a scan", "store's CPU-s a scan"],
                rows,
            ),
        ]
    )
    print(text)
    if options.write:
        document.replace(SECTION, text)


if __name__ == "__main__":
    main()
