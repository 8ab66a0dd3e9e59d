"""Compaction of a workspace's ledger, many small files into few, and removal of what killed writers left.

Safe at any moment: a merged file is complete before those that it replaces are deleted, and rows that are there twice
count once. Killed anywhere, run twice, or beside readers, it changes nothing that `ledger.read_ledger` returns.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa

from ctplatform.dataset import ledger
from ctplatform.storage import layout
from ctplatform.storage.layout import PATCHES, SCANS
from ctplatform.storage.workspace import TEMPORARY, Workspace

ROWS_PER_FILE = 2000
OLD_S = 3600.0  # younger files may belong to another run


def compact(workspace: Workspace, *, rows_per_file: int = ROWS_PER_FILE) -> int:
    """Merge the ledger's files into files of about `rows_per_file` rows.

    Rows that no longer count are dropped, and files whose rows were merged are deleted. Files that are at least half
    full and hold only rows that count stay as they are, so that a few new scans do not rewrite all. Rows in state
    `started` stay in files of their own, which a running task may be about to replace.

    Returns:
        How many files were replaced.
    """
    names = workspace.files(SCANS, suffix=".parquet")
    if not names:
        return 0
    try:
        table = ledger.read_files(workspace, columns=[*_ROW, "state", "file"], names=names)
        assert table is not None
        keys = table.to_pandas()
        keys["counts"] = keys.index.isin(ledger.counting_rows(table))
        replaced = _replaceable(keys, rows_per_file)
        moving = keys["file"].isin(replaced)
        if len(replaced) < 2 and keys.loc[moving, "counts"].all():
            return 0  # nothing to merge and nothing to drop
        keep = keys[moving & keys["counts"]]
        for group in _groups(keep, rows_per_file):
            _merge(workspace, group)
    except FileNotFoundError:
        return 0  # another process compacts
    for path in replaced:
        workspace.delete(SCANS, path.rpartition("/")[2])
    return len(replaced)


_ROW = ["scan_id", "version", "committed"]


def _replaceable(keys: pd.DataFrame, rows_per_file: int) -> list[str]:
    files = keys.groupby("file", sort=True)
    started = files["state"].agg(lambda states: (states == ledger.STARTED).any())
    full = files["counts"].all() & (files.size() >= rows_per_file / 2)
    return list(started.index[~started & ~full])


def _groups(rows: pd.DataFrame, rows_per_file: int) -> Iterator[pd.DataFrame]:
    """Rows of whole files, about `rows_per_file` together: no group needs more memory than that."""
    sizes = rows.groupby("file", sort=True).size()
    place = ((sizes.cumsum() - 1) // rows_per_file).astype(int)
    number = rows["file"].map(place)
    for _, group in rows.groupby(number, sort=True):
        yield group


def _merge(workspace: Workspace, rows: pd.DataFrame) -> None:
    names = [path.rpartition("/")[2] for path in sorted(set(rows["file"]))]
    table = ledger.read_files(workspace, columns=ledger.SCHEMA.names, names=names)
    assert table is not None
    counting = set(_tuples(rows[_ROW]))
    keep = [key in counting for key in _tuples(table.select(_ROW).to_pandas())]
    merged = table.filter(pa.array(keep)).sort_by("scan_id")
    workspace.write_table(merged, *layout.merged_ledger_rows(uuid.uuid4().hex))


def _tuples(rows: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    return iter(rows.fillna(0).itertuples(index=False, name=None))


def remove_leftovers(workspace: Workspace, *, older_than_s: float = OLD_S) -> list[str]:
    """Delete what no reader opens: unfinished files, and shards of scans without a row or without usable patches.

    Returns:
        The names of the deleted files.
    """
    rows = ledger.read_ledger(workspace, columns=["scan_id", "state"], started=True)
    known = set(rows.loc[~rows["state"].isin(["rejected", "failed"]), "scan_id"])
    limit = time.time() - older_than_s
    removed = []
    for folder in ((PATCHES,), (SCANS,), (SCANS, layout.OVERLAYS)):
        for info in workspace.infos(*folder):
            if not info.is_file:
                continue
            stale = info.base_name.startswith(TEMPORARY) or (
                folder == (PATCHES,) and info.base_name.removesuffix(".parquet") not in known
            )
            if stale and info.mtime_ns < limit * 1e9:
                workspace.delete(*folder, info.base_name)
                removed.append(info.base_name)
    return sorted(removed)
