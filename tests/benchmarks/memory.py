"""Peak memory of preparing a 512 x 512 x 700 scan, and what of a run passes through Ray's object store.

`python -m tests.benchmarks.memory`. Peaks are those of fresh processes that prepare one scan (VmHWM), beside one
that only imports what a worker imports. The object store's counters are read from the raylet after a real
`prepare` of the real CTs. Prints Markdown; `--write` puts it into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

from ctplatform.config.cluster import RayConfig
from ctplatform.preparation.atlas import atlas
from ctplatform.storage.workspace import Workspace
from tests.benchmarks import bigscans, document, realscans
from tests.benchmarks.peak import peak_mib
from tests.benchmarks.prepare_speed import fresh

SECTION = "Memory of preparing"


def store_stats() -> Any:
    """Counters of the object stores of the connected cluster."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    # By its address: other clusters may run on this machine.
    address = ray.get_runtime_context().gcs_address
    return get_memory_info_reply(get_state_from_address(address)).store_stats


def idle() -> float:
    """MiB of a worker that has imported everything and read no scan."""
    import ray.data  # noqa: F401

    return peak_mib()


def through_the_store(ct: Path, atlas_folder: Path, folder: Path) -> list[str]:
    """A real run on Ray, and what it put into the object store."""
    import pandas as pd

    from ctplatform.compute.session import ray_session
    from ctplatform.preparation.prepare import prepare

    workspace, recipe = Workspace(folder / "ray"), realscans.recipe_of(atlas_folder)
    atlas(workspace, None, recipe)
    cohort = pd.DataFrame(realscans.items(ct)).drop(columns="fingerprint")
    with ray_session(RayConfig(num_cpus=2)):
        before = store_stats()
        prepare(workspace, cohort, recipe)
        after = store_stats()
    size = after.cumulative_created_bytes - before.cumulative_created_bytes
    count = after.cumulative_created_objects - before.cumulative_created_objects
    return [
        f"object store, {len(cohort)} scans prepared with Ray",
        f"{size / 1024:.0f} KiB in {count} objects in all",
        "no volume (a small scan has 15 MiB)",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=700)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    ct, atlas_folder = realscans.folders()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(["a worker that has read no scan", f"{pool.apply(idle):.0f} MiB", ""])
        workspace = Workspace(folder / "workspace")
        atlas(workspace, None, realscans.recipe_of(atlas_folder))
        item = realscans.items(ct)[0]
        volume = 512 * 512 * options.slices * 2 / 2**20
        for form, path in bigscans.write(bigscans.resliced(ct, options.slices), folder / "big").items():
            row, peak = fresh(
                {**item, "scan_id": "tall", "path": str(path), "series_uid": ""}, workspace.uri, 1
            )
            name = f"512 x 512 x {options.slices}, {form} ({row['state']})"
            rows.append([name, f"{peak:.0f} MiB", f"volume alone {volume:.0f} MiB"])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
        rows.append(through_the_store(ct, atlas_folder, folder))
    text = "\n".join(
        [
            "`python -m tests.benchmarks.memory`: peak resident memory of one fresh process a line; the tall scan is",
            "a real one with its slices interpolated.",
            "",
            document.table(["what", "measured", "beside"], rows),
        ]
    )
    print(text)
    if options.write:
        document.replace(SECTION, text)


if __name__ == "__main__":
    main()
