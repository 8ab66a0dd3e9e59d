"""CPU-seconds from a CT file to a committed shard: `python -m tests.benchmarks.prepare_speed`.

Every scan goes through `prepare_scan`, reading and writing included, at the published atlas's 581 locations, on one
core, in CPU time. The real CTs run one after the other in this process; the 512 x 512 x 300 scan in a fresh process
for each format, where its second pass counts (the first imports libraries) and the peak of resident memory is the
process's own. Prints Markdown; `--write` puts it into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from ctplatform.preparation.atlas import atlas
from ctplatform.preparation.scan import prepare_scan
from ctplatform.storage.workspace import Workspace
from tests.benchmarks import bigscans, document, realscans
from tests.benchmarks.peak import peak_mib

SECTION = "Preparing scans"
CPU_BAR, MEMORY_BAR = 4.0, 1024


def run(item: dict[str, str], workspace: str, passes: int) -> tuple[dict[str, Any], float]:
    """The fastest pass's ledger row, and this process's peak of resident memory in MiB."""
    recipe = realscans.recipe_of(realscans.folders()[1])
    rows = [
        prepare_scan(Workspace(workspace), item, recipe.prepare, config_hash="benchmark")
        for _ in range(passes)
    ]
    best = min(rows, key=lambda row: row["cpu_seconds"])
    return best, peak_mib()


def fresh(item: dict[str, str], workspace: str, passes: int) -> tuple[dict[str, Any], float]:
    """`run` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (item, workspace, passes))


def line(name: str, row: dict[str, Any], names: list[str], *rest: str) -> list[str]:
    """A line of a table: CPU-seconds in all and a step."""
    steps = json.loads(row["steps"])
    return [
        name,
        row["state"],
        f"{row['cpu_seconds']:.2f}",
        *(f"{steps.get(n, 0):.2f}" for n in names),
        *rest,
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks/")
    options = parser.parse_args()
    ct, atlas_folder = realscans.folders()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = realscans.recipe_of(atlas_folder)
        workspace = Workspace(folder / "workspace")
        atlas(workspace, None, recipe)
        items = realscans.items(ct)
        run(items[-1], workspace.uri, 1)  # imports libraries
        done = [run(item, workspace.uri, options.passes)[0] for item in items]
        big = bigscans.resliced(ct, 300)
        tall = []
        for form, path in bigscans.write(big, folder / "big").items():
            item = {**items[0], "scan_id": f"big{len(tall)}", "path": str(path), "series_uid": ""}
            tall.append((f"512 x 512 x 300, {form}", *fresh(item, workspace.uri, options.passes)))
    names = list(dict.fromkeys(name for row in done for name in json.loads(row["steps"])))
    paths = {item["scan_id"]: str(Path(item["path"]).relative_to(ct.absolute())) for item in items}
    rows = [line(paths[row["scan_id"]], row, names, "", "") for row in done]
    for name, row, peak in tall:
        rows.append(line(name, row, names, f"<= {CPU_BAR:.0f}", f"{peak:.0f} (<= {MEMORY_BAR})"))
    rows.sort(key=lambda row: row[0])
    usable = [row["cpu_seconds"] for row in done if row["state"] in ("accepted", "flagged")]
    slowest = max(row["cpu_seconds"] for _, row, _ in tall)
    text = "\n".join(
        [
            "`python -m tests.benchmarks.prepare_speed`: the whole path on one core, fastest of",
            f"{options.passes} passes; CPU-seconds in all and a step. The 512 x 512 x 300 scan is a real one",
            "of 133 slices, interpolated to 300,",
            f"with noise of {bigscans.NOISE_HU:.0f} HU added. {realscans.machine()}, "
            f"load average {os.getloadavg()[1]:.0f}.",
            "",
            document.table(["scan", "verdict", "CPU-s", *names, "bar", "peak resident, MiB"], rows),
            "",
            f"{60 / statistics.mean(usable):.0f} usable scans a core-minute; 10,000 scans like the slower of",
            f"the tall ones take {slowest * 10_000 / 3600:.0f} core-hours.",
        ]
    )
    print(text)
    if options.write:
        document.replace(SECTION, text)


if __name__ == "__main__":
    main()
