"""`prepare` through Ray Data against the same function in a plain process pool.

`python -m tests.benchmarks.ray_overhead`. The same scans, work lists and number of processes, alternating in one run;
wall time, so the machine must be quiet. Both start warm: the pool's processes and Ray's workers have prepared a scan
before the clock runs. One process alone says what a second core adds. Prints Markdown; `--write` puts it into
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ctplatform.compute.session import ray_session
from ctplatform.config.cluster import RayConfig
from ctplatform.preparation.atlas import atlas
from ctplatform.preparation.prepare import prepare
from ctplatform.preparation.scan import prepare_scan
from ctplatform.storage.workspace import Workspace
from tests.benchmarks import document, realscans

SECTION = "Ray's overhead"
WORKERS = 2


def _one(task: tuple[dict[str, str], str]) -> str:
    item, workspace = task
    recipe = realscans.recipe_of(realscans.folders()[1])
    return prepare_scan(Workspace(workspace), item, recipe.prepare, config_hash="benchmark")["state"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=3, help="how often each real scan is in the work list")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    ct, atlas_folder = realscans.folders()
    recipe = realscans.recipe_of(atlas_folder)
    scans = [
        {**item, "scan_id": f"{item['scan_id']}-{copy}"}
        for copy in range(options.copies)
        for item in realscans.items(ct)
    ]
    best: dict[str, float] = {}
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for its workers: the pool's processes get the same
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as temporary,
        context.Pool(WORKERS) as pool,
        context.Pool(1) as single,
        ray_session(RayConfig(num_cpus=WORKERS)),
    ):
        places = 0

        def place() -> Workspace:
            nonlocal places
            places += 1
            workspace = Workspace(Path(temporary) / str(places))
            atlas(workspace, None, recipe)
            return workspace

        def pooled(processes: multiprocessing.pool.Pool, items: list) -> None:  # type: ignore[name-defined]
            workspace = place()
            processes.map(_one, [(item, workspace.uri) for item in items], chunksize=1)

        def by_ray(items: list) -> None:
            prepare(place(), pd.DataFrame(items).drop(columns="fingerprint"), recipe)

        runs: dict[str, Callable[[list], None]] = {
            "process pool, 2": lambda items: pooled(pool, items),
            "Ray Data, 2": by_ray,
            "process pool, 1": lambda items: pooled(single, items),
        }
        for repeat in range(options.repeats + 1):
            for name, function in runs.items():
                items = scans if repeat else scans[: 2 * WORKERS]  # the first round warms up
                start = time.perf_counter()
                function(items)
                rate = len(items) / (time.perf_counter() - start)
                if repeat:
                    best[name] = max(best.get(name, 0.0), rate)
    pool_rate, one_rate = best["process pool, 2"], best["process pool, 1"]
    rows = [
        [name, f"{rate * 60:.0f}", f"{rate / pool_rate:.2f}x", f"{rate / one_rate:.2f}x"]
        for name, rate in best.items()
    ]
    rows.append(["bar for Ray Data", "", ">= 0.90x", ">= 1.70x"])
    text = "\n".join(
        [
            f"`python -m tests.benchmarks.ray_overhead --copies {options.copies} --repeats {options.repeats}`:",
            f"{len(scans)} scans a run, fastest of {options.repeats}, alternating, wall time. {realscans.machine()},",
            f"load average {os.getloadavg()[0]:.1f} at the end.",
            "",
            document.table(["how, processes", "scans/min", "of the pool", "of one process"], rows),
        ]
    )
    print(text)
    if options.write:
        document.replace(SECTION, text)


if __name__ == "__main__":
    main()
