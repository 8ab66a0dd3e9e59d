"""Verification of a workspace: which of its files were cut, overwritten or lost since they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.dataset import ledger
from ctplatform.dataset.atlas import read_atlas
from ctplatform.dataset.splits import read_split
from ctplatform.errors import StageError
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

_THREADS = 8
_COLUMNS = ["scan_id", "state", "shard_bytes", "shard_sha256", "footer"]


@dataclass(frozen=True)
class Damage:
    """A damaged file: where it is below the workspace, what is wrong, what to do."""

    parts: layout.Parts
    problem: str
    remedy: str


def verify_data(
    workspace: Workspace, *, on_progress: Callable[[int, int], None] | None = None
) -> list[Damage]:
    """Read atlas, split, ledger and every shard that the ledger names.

    A shard is compared with the checksum in its ledger row. Rows of version 0.1.0 have none: their shards are compared
    with the stored footer and decoded.

    Args:
        workspace: may lack any of them.
        on_progress: called with (shards read, shards in all).
    """
    found = []
    if workspace.exists(layout.ATLAS, layout.ATLAS_FILE):
        found += _of(lambda: read_atlas(workspace), (layout.ATLAS, layout.ATLAS_FILE))
    if workspace.exists(layout.SPLITS_FILE):
        found += _of(lambda: read_split(workspace), (layout.SPLITS_FILE,))
    names = workspace.files(layout.SCANS, suffix=layout.PARQUET)
    bad = ledger.damaged_files(workspace, names)
    found += [
        Damage(parts, "no whole Parquet file", layout.remedy(parts))
        for parts in ((layout.SCANS, name) for name in bad)
    ]
    if len(bad) < len(names):
        table = ledger.read_files(
            workspace,
            columns=[*_COLUMNS, "version", "committed"],
            names=[name for name in names if name not in bad],
        )
        assert table is not None
        rows = table.take(pa.array(ledger.counting_rows(table))).select(_COLUMNS).to_pylist()
        found += _shards(workspace, [row for row in rows if row["shard_bytes"]], on_progress)
    return found


def _shards(
    workspace: Workspace, rows: list[dict[str, Any]], on_progress: Callable[[int, int], None] | None
) -> Iterator[Damage]:
    with ThreadPoolExecutor(_THREADS) as pool:
        problems = pool.map(lambda row: _problem(workspace, row), rows)
        for done, (row, problem) in enumerate(zip(rows, problems, strict=True), 1):
            if on_progress:
                on_progress(done, len(rows))
            if problem:
                parts = layout.shard(row["scan_id"])
                yield Damage(parts, problem, layout.remedy(parts))


def _problem(workspace: Workspace, row: dict[str, Any]) -> str:
    """What is wrong with a shard; empty if nothing is."""
    parts = layout.shard(row["scan_id"])
    try:
        data = workspace.read_bytes(*parts)
    except StageError as error:
        if error.code != "missing":
            raise
        return "missing"
    if len(data) != row["shard_bytes"]:
        return f"{len(data)} bytes of {row['shard_bytes']}"
    if row["shard_sha256"]:
        same = hashlib.sha256(data).hexdigest() == row["shard_sha256"]
        return "" if same else "its bytes are not those that were written"
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        footer = pa.BufferOutputStream()
        file.metadata.write_metadata_file(footer)
        if footer.getvalue().to_pybytes() != row["footer"]:
            return "its footer is not the one that was written"
        for index in range(file.num_row_groups):
            file.read_row_group(index)
    except (pa.ArrowInvalid, OSError):
        return "it cannot be decoded"
    return ""


def _of(read: Callable[[], object], parts: layout.Parts) -> list[Damage]:
    try:
        read()
    except StageError as error:
        return [Damage(parts, error.problem, error.remedy)]
    return []
