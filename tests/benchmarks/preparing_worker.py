"""One side of `tests.benchmarks.preparing`; runs with any build of the project on its path."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def main(workspace: str, atlas_folder: str) -> None:
    """Serve cases that are work items of `prepare_scan` as JSON."""
    spec = importlib.util.spec_from_file_location("builds", Path(__file__).with_name("builds.py"))
    assert spec is not None
    assert spec.loader is not None
    builds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builds)
    # The builds differ in where their modules lie.
    if importlib.util.find_spec("ctplatform.preparation"):
        from ctplatform.config.loader import load_recipe
        from ctplatform.preparation.atlas import atlas
        from ctplatform.preparation.scan import prepare_scan
        from ctplatform.storage.workspace import Workspace
    else:
        from ctplatform.atlas import atlas
        from ctplatform.recipe import load_recipe
        from ctplatform.scan import prepare_scan
        from ctplatform.workspace import Workspace
    recipe = load_recipe("demo", (f"atlas.source={atlas_folder}",))
    store = Workspace(workspace)
    atlas(store, None, recipe)

    peaks: list[float] = []

    def work(case: str) -> dict[str, Any]:
        row = prepare_scan(store, json.loads(case), recipe.prepare, config_hash="benchmark")
        peaks.append(builds.peak_mib())
        return {
            "seconds": row["cpu_seconds"],
            "steps": json.loads(row["steps"]),
            "peak": peaks[0],  # later ones hold the digest of all patches, which takes more than the scan
            "state": row["state"],
            "measures": json.loads(row.get("measures") or "{}"),
            "found": _digest(Path(workspace), row),
        }

    builds.serve(work)


def _digest(workspace: Path, row: dict[str, Any]) -> str:
    """Of the scan's content, its registration and all patches."""
    digest = hashlib.sha256()
    for name in ("affine", "content_hash"):
        digest.update(json.dumps([name, row.get(name)]).encode())
    for shard in workspace.rglob(f"{row['scan_id']}.parquet"):
        table = pq.read_table(shard)
        for name in sorted(table.column_names):
            digest.update(str(table.column(name).to_pylist()).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
