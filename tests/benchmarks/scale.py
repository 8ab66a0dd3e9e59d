"""What a cohort costs in files, bytes, tasks, driver memory and ledger: made-up scans, the real write path.

    python -m tests.benchmarks.scale --atlas FOLDER --ct SCAN --scans 4000 --write

The scans are made up and their patches small; plan, Ray Data execution, shards, ledger rows, compaction and the
second run are those of `drasclr prepare`. What a true scan takes comes from preparing `--ct` for real. `--scans 0`
measures that alone, without Ray; `--write` puts it all into docs/benchmarks/.

    python -m tests.benchmarks.scale --atlas FOLDER --nlst --scans 10000 --write

takes its rows from all of NLST, as `drasclr cohort idc` writes them, and measures the plan of the whole table as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import tempfile
import time
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from ctplatform.cohort.table import read_cohort, write_cohort
from ctplatform.compute.isolation import PART_SIZE
from ctplatform.compute.session import ray_session
from ctplatform.config.cluster import RayConfig
from ctplatform.config.loader import load_recipe
from ctplatform.config.preparation import AtlasConfig
from ctplatform.dataset import compaction, ledger, shards
from ctplatform.dataset.atlas import image_to_bytes, read_atlas
from ctplatform.imaging.fingerprint import fingerprint
from ctplatform.preparation.atlas import given_atlas, locate
from ctplatform.preparation.plan import settings_hash
from ctplatform.preparation.prepare import prepare
from ctplatform.preparation.scan import prepare_scan
from ctplatform.storage.layout import ATLAS, ATLAS_FILE, PATCHES, SCANS, TEMPLATE_FILE
from ctplatform.storage.workspace import Workspace
from tests.benchmarks.document import replace, table
from tests.benchmarks.peak import peak_mib

SIDE = 6  # voxels of a synthetic patch
COHORT = 10_000


def synthetic(workspace, item, config, atlas, template, clock, config_hash) -> dict[str, Any]:
    """In place of `process_scan`: made-up patches and measures, written as it writes them."""
    rng = np.random.default_rng(zlib.crc32(item["scan_id"].encode()))
    hu = rng.normal(-850, 60, (atlas.num_locations, SIDE, SIDE, SIDE)).astype(np.int16)
    affine = rng.normal(size=16).tolist()
    texts = {
        "content_hash": f"{rng.integers(2**62):064x}",
        "affine": json.dumps(affine),
        "config_hash": config_hash,
    }
    data, footer = shards.encode(
        scan_id=item["scan_id"],
        subject_id=item["subject_id"],
        hu_NDHW=hu,
        inside_N=np.ones(len(hu), np.float32),
        atlas=atlas,
        metadata=texts,
    )
    workspace.write_bytes(data, PATCHES, f"{item['scan_id']}.parquet")
    workspace.write_bytes(b"overlay", SCANS, "qc", f"{item['scan_id']}.png")
    measures = {name: round(float(rng.normal()), 6) for name in ledger.MEASURES}
    return {
        "state": "accepted", "reason": "", "remedy": "", "code": "", "notes": "padding: 21.4% of the voxels lay below",
        **measures, "measures": json.dumps(measures | {f"other_{k}": 0.123456 for k in range(12)}),
        "affine": affine, "source": json.dumps({"format": "DICOM", "size": [512, 512, 300]}),
        "content_hash": texts["content_hash"], "footer": footer, "patches": len(hu), "shard_bytes": len(data),
    }  # fmt: skip


def simulate(workspace: Workspace, cohort: pd.DataFrame, recipe: Any) -> dict[str, Any]:
    """Prepare the made-up cohort, then again; what the driver and the workspace look like."""
    me, memory, found = psutil.Process(), [], {}
    waves: dict[int, tuple[int, float]] = {}  # by process: largest memory and CPU-seconds seen

    def watch(done: int, total: int) -> None:
        if done == 1 or done % 500 == 0:
            memory.append((done, me.memory_info().rss))
        if done % PART_SIZE == PART_SIZE - 100:
            for process in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.name().startswith("ray::_wave"):
                        most, _ = waves.get(process.pid, (0, 0.0))
                        used = process.cpu_times()
                        waves[process.pid] = max(most, process.memory_info().rss), used.user + used.system
        if done == total:
            found["rows_before"] = count(workspace, SCANS)

    start, cpu, found["before"] = time.monotonic(), time.process_time(), me.memory_info().rss
    summary = prepare(workspace, cohort, recipe, on_progress=watch, process=synthetic)
    found |= {"seconds": time.monotonic() - start, "driver_cpu": time.process_time() - cpu, "memory": memory}
    found |= {"after": me.memory_info().rss, "waves": list(waves.values())}
    assert summary.counts["accepted"] == len(cohort)
    found["rows_after"] = count(workspace, SCANS)
    found["patches"] = count(workspace, PATCHES)
    found["overlays"] = count(workspace, SCANS, "qc")
    start, before = time.monotonic(), me.memory_info().rss
    again = prepare(workspace, cohort, recipe, process=synthetic)
    assert (again.done, again.skipped) == (0, len(cohort))
    found |= {"again_seconds": time.monotonic() - start, "again_growth": me.memory_info().rss - before}
    start = time.monotonic()
    assert len(ledger.read_ledger(workspace)) == len(cohort)
    found["read_seconds"] = time.monotonic() - start
    start = time.monotonic()
    assert compaction.compact(workspace) == 0
    found["compact_seconds"] = time.monotonic() - start
    return found


def count(workspace: Workspace, *folder: str) -> tuple[int, int]:
    """Files and bytes directly in a folder."""
    sizes = [info.size for info in workspace.infos(*folder) if info.is_file]
    return len(sizes), sum(sizes)


def real_scan(workspace: Workspace, path: str, recipe: Any) -> dict[str, int]:
    """Bytes of shard, overlay and ledger row of one true scan."""
    item = {
        "scan_id": "real",
        "subject_id": "real",
        "path": str(Path(path).expanduser().resolve()),
        "series_uid": "",
    }
    item |= {"fingerprint": fingerprint(item["path"]), "version": 1, "cause": "new", "old": ""}
    settings = settings_hash(recipe, read_atlas(workspace).hash)
    row = prepare_scan(workspace, item, recipe.prepare, config_hash=settings)
    assert row["state"] in ("accepted", "flagged"), row["reason"]
    return {
        "shard": row["shard_bytes"],
        "overlay": count(workspace, SCANS, "qc")[1],
        "row": count(workspace, SCANS)[1],
        "footer": len(row["footer"]),
    }


def atlas_at(folder: str, source: str, side: int) -> Workspace:
    """A workspace with the given atlas, its patches of `side` voxels."""
    workspace = Workspace(folder)
    template, corners = given_atlas(source)
    made = locate(template, AtlasConfig(source=source, patch_size=side), corners_N3=corners)
    workspace.write_bytes(image_to_bytes(template), ATLAS, TEMPLATE_FILE)
    workspace.write_json(made.to_json(), ATLAS, ATLAS_FILE)
    return workspace


def main() -> None:
    """Run, print, and on demand write the section of docs/benchmarks/."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--atlas", required=True, help="folder of a given atlas (581 locations)")
    options.add_argument("--ct", help="one true scan, for the size of real shards")
    options.add_argument("--scans", type=int, default=4000)
    options.add_argument("--nlst", action="store_true", help="rows of NLST, and the plan of all of it")
    options.add_argument("--write", action="store_true")
    args = options.parse_args()
    recipe = load_recipe("fast", [f"atlas.source={args.atlas}"])
    if args.nlst:
        text = public(args.atlas, args.scans, recipe)
        print(text)
        if args.write:
            replace("A public collection", text)
        return
    if not args.ct:
        options.error("--ct is needed without --nlst")
    with tempfile.TemporaryDirectory() as folder:
        real_workspace = atlas_at(f"{folder}/real", args.atlas, 32)
        real = real_scan(real_workspace, args.ct, recipe)
        text = storage(real, read_atlas(real_workspace))
        if args.scans:
            workspace = atlas_at(f"{folder}/ws", args.atlas, SIDE)
            cohort = made_up(Path(folder) / "in", args.scans)
            with ray_session(RayConfig(num_cpus=2)):
                found = simulate(workspace, cohort, recipe)
            text = section(args.scans, found, read_atlas(workspace)) + "\n\n" + text
    print(text)
    if args.write:
        replace("Scale", text)


def public(source: str, scans: int, recipe: Any) -> str:
    """The plan of all of NLST, and a run of its first scans with a simulated reader."""
    from ctplatform.cohort.idc import public_cohort
    from ctplatform.cohort.idc_selection import Choice

    with tempfile.TemporaryDirectory() as folder:
        table_file = Path(folder) / "nlst.csv"
        cohort = public_cohort(Choice(("nlst",))).table
        write_cohort(cohort, table_file)
        studies = len(cohort)
        workspace = atlas_at(f"{folder}/ws", source, SIDE)
        first = planned(workspace, table_file, recipe)
        with ray_session(RayConfig(num_cpus=2)):
            found = simulate(workspace, cohort.head(scans), recipe)
        second = planned(workspace, table_file, recipe)
        assert (first["todo"], second["todo"]) == (studies, studies - scans)
    memory = found["memory"]
    mib = 2**20

    def line(name: str, plan: dict[str, float]) -> list[str]:
        return [name, f"{plan['wall_s']:.1f} s, {plan['cpu_s']:.1f} s of CPU", f"{plan['peak_mib']:.0f} MiB"]

    seconds = f"{found['seconds']:.0f} s, driver {found['driver_cpu']:.0f} s of CPU"
    quarter, (last, high) = memory[len(memory) // 4], memory[-1]
    growth = (high - quarter[1]) / max(1, last - quarter[0]) / 1024
    rows = [
        line(f"table read and planned, {studies:,} studies", first),
        line(f"the same with {scans:,} of them finished", second),
        [f"run of {scans:,}, simulated reader, two workers", seconds,
         f"driver {', '.join(f'{rss / mib:.0f}' for rss in (memory[0][1], quarter[1], high, found['after']))} MiB"],
        ["second run, nothing to do", f"{found['again_seconds']:.1f} s", f"+{found['again_growth'] / mib:.0f} MiB"],
    ]  # fmt: skip
    return (
        f"`python -m tests.benchmarks.scale --atlas FOLDER --nlst --scans {scans} --write`: NLST as\n"
        "`drasclr cohort idc` writes it. The reader is simulated; shards, ledger and Ray Data execution are real. The\n"
        "driver's memory: at the first scan, at a quarter, at the last and at the end, "
        f"{growth:.2f} KiB a scan after the first quarter.\n"
        f"{platform.machine()}, two cores, load average {os.getloadavg()[1]:.0f}.\n\n"
        + table(["what", "time", "memory"], rows)
    )


def planned(workspace: Workspace, cohort: Path, recipe: Any) -> dict[str, float]:
    """Time and peak memory of a process that reads the table and plans it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_plan, args=(workspace.uri, str(cohort), recipe, theirs))
    process.start()
    found: dict[str, float] = ours.recv()
    process.join()
    return found


def _plan(workspace: str, cohort: str, recipe: Any, pipe: Connection) -> None:
    from ctplatform.preparation.plan import make_plan

    start, cpu, place = time.monotonic(), time.process_time(), Workspace(workspace)
    plan = make_plan(place, read_cohort(cohort), recipe, read_atlas(place).hash)
    pipe.send(
        {
            "todo": plan.todo,
            "wall_s": time.monotonic() - start,
            "cpu_s": time.process_time() - cpu,
            "peak_mib": peak_mib(),
        }
    )


def made_up(folder: Path, scans: int) -> pd.DataFrame:
    """A scan table whose files exist, so that looking at them costs what it costs."""
    folder.mkdir()
    rows = []
    for number in range(scans):
        path = folder / f"{number}.nii.gz"
        path.write_bytes(b"")
        os.truncate(path, 100 + number)
        rows.append({"scan_id": f"scan{number:06d}", "subject_id": f"sub{number:06d}", "path": str(path)})
    return pd.DataFrame(rows).assign(series_uid="")


def storage(real: dict[str, int], atlas: Any) -> str:
    """What a true scan takes, and what the halo adds."""
    n = atlas.num_locations
    rows = sum(len(atlas.members(b)) + len(atlas.halo(b)) for b in range(atlas.num_blocks))
    raw = n * atlas.patch_size**3 * 2
    lines = [
        ["shard", f"{real['shard'] / 1e6:.1f} MB", f"{COHORT * real['shard'] / 1e9:,.0f} GB"],
        ["its patches unpacked, each once", f"{raw / 1e6:.1f} MB", f"{COHORT * raw / 1e9:,.0f} GB"],
        ["overlay", f"{real['overlay'] / 1e3:.0f} kB", f"{COHORT * real['overlay'] / 1e9:.1f} GB"],
        [
            "ledger row, in a file of its own",
            f"{real['row'] / 1e3:.1f} kB",
            f"{COHORT * real['row'] / 1e6:.0f} MB",
        ],
        [
            "of which the shard's footer",
            f"{real['footer'] / 1e3:.1f} kB",
            f"{COHORT * real['footer'] / 1e6:.0f} MB",
        ],
    ]
    return (
        "`python -m tests.benchmarks.scale --atlas FOLDER --ct SCAN --scans 0`, one true scan:\n\n"
        + table(["what", "one scan", f"{COHORT:,} scans, in proportion"], lines)
        + f"\n\nThe halo: a shard stores {rows} patches in {atlas.num_blocks} row groups for {n} locations, "
        f"{rows / n:.3f} times as many,\nso that an anchor's neighbours arrive with it.\n"
    )


def section(scans: int, found: dict[str, Any], atlas: Any) -> str:
    """What the simulation came to."""
    n = atlas.num_locations
    to = COHORT / scans
    memory = found["memory"]
    (first, low), (last, high) = memory[len(memory) // 4], memory[-1]
    slope = (high - low) / max(1, last - first)
    before, after = found["rows_before"], found["rows_after"]
    mib = 2**20

    def line(name: str, here: str, there: str) -> list[str]:
        return [name, here, there]

    lines = [
        line("tasks, one a scan; waves", f"{scans:,}; {len(found['waves'])}",
             f"{COHORT:,}; {COHORT / PART_SIZE:.0f}"),
        line("files of patches", f"{found['patches'][0]:,}", f"{COHORT:,}"),
        line("row groups", f"{scans * atlas.num_blocks:,}", f"{COHORT * atlas.num_blocks:,}"),
        line("overlays", f"{found['overlays'][0]:,}", f"{COHORT:,}"),
        line("ledger before compaction", f"{before[0]:,} files, {before[1] / mib:.1f} MiB",
             f"{before[0] * to:,.0f} files, {before[1] * to / mib:.0f} MiB"),
        line("ledger after compaction", f"{after[0]:,} files, {after[1] / mib:.1f} MiB",
             f"{np.ceil(COHORT / compaction.ROWS_PER_FILE):.0f} files, {after[1] * to / mib:.0f} MiB"),
        line("driver memory, growth a scan", f"{slope / 1024:.1f} KiB (from scan {first:,} to {last:,})",
             f"{slope * COHORT / mib:.0f} MiB in all"),
        line("driver memory before, at the first scan, at the last, at the end", ", ".join(
             f"{rss / mib:.0f}" for rss in (found["before"], memory[0][1], high, found["after"])) + " MiB", ""),
        line("a wave's process", f"up to {max(rss for rss, _ in found['waves']) / mib:.0f} MiB, "
             f"{1000 * sum(cpu for _, cpu in found['waves']) / scans:.1f} ms of CPU a scan", "the same"),
        line("driver CPU", f"{found['driver_cpu']:.0f} s, {1000 * found['driver_cpu'] / scans:.1f} ms a scan",
             f"{found['driver_cpu'] * to / 60:.1f} min"),
        line("second run, nothing to do", f"{found['again_seconds']:.1f} s, +{found['again_growth'] / mib:.0f} MiB",
             f"{found['again_seconds'] * to:.0f} s"),
        line("reading the whole ledger", f"{found['read_seconds']:.2f} s", f"{found['read_seconds'] * to:.1f} s"),
        line("compaction with nothing to do", f"{found['compact_seconds']:.2f} s",
             f"{found['compact_seconds'] * to:.1f} s"),
    ]  # fmt: skip
    return (
        f"`python -m tests.benchmarks.scale --atlas FOLDER --ct SCAN --scans {scans} --write`: {scans:,} made-up scans "
        f"through the true plan, Ray Data execution, shards, ledger and compaction, two workers on "
        f"{platform.machine()}, in {found['seconds']:.0f} s; "
        f"{n} locations in {atlas.num_blocks} blocks, patches of {SIDE}^3 so that the "
        f"disk holds them. The right column is in proportion, not measured.\n\n"
        + table(["what", f"measured, {scans:,} scans", f"{COHORT:,} scans"], lines)
    )


if __name__ == "__main__":
    main()
