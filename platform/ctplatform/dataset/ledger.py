"""The ledger: the state of each scan, one row a scan. A scan is prepared once its row is written.

The folder is a log of Parquet files that are only added or deleted whole. A worker adds `<scan_id>.<version>.parquet`
after the shard; `compaction.compact` later merges many such files into few `rows-*.parquet`. Of several rows of a
scan the highest version counts. A scan that is prepared again first gets a row in state `started` under its next
version: from then on, until the new row replaces it, the scan is invisible, since its shard may be the old or the new
one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ctplatform.errors import StageError
from ctplatform.storage import layout
from ctplatform.storage.layout import SCANS
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

#: Columns of densitometry: LAA-950, 15th percentile of the HU, lung volume in litres.
DENSITY = ("laa950", "perc15", "volume_l")

STATES = ("accepted", "flagged", "rejected", "failed")
STARTED = "started"
MEASURES = (
    "dice",
    "dice_right",
    "dice_left",
    "determinant",
    "sv_min",
    "sv_max",
    "volume_l",
    "right_l",
    "left_l",
    "side_ratio",
    "cut_top_cm2",
    "cut_bottom_cm2",
    "inside",
    "laa950",
    "perc15",
    "mean_hu",
)

SCHEMA = pa.schema(
    [
        ("scan_id", pa.string()),
        ("subject_id", pa.string()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("remedy", pa.string()),
        ("code", pa.string()),
        ("notes", pa.string()),
        *((name, pa.float64()) for name in MEASURES),
        ("measures", pa.string()),  # JSON of everything measured, these and others
        ("affine", pa.list_(pa.float64())),
        ("source", pa.string()),  # JSON: format, kernel, size, spacing, ...: numbers and words of fixed lists
        ("content_hash", pa.string()),
        ("fingerprint", pa.string()),
        ("atlas_hash", pa.string()),
        ("config_hash", pa.string()),
        ("software", pa.string()),
        ("patches", pa.int32()),
        ("shard_bytes", pa.int64()),
        ("shard_sha256", pa.string()),  # hexadecimal; rows of version 0.1.0 have none
        ("footer", pa.binary()),
        ("cause", pa.string()),  # why the scan was prepared: new, or what had changed
        ("version", pa.int32()),  # how many times it has been
        ("committed", pa.int64()),  # when the row was written, ns since 1970
        ("seconds", pa.float64()),
        ("cpu_seconds", pa.float64()),
        ("steps", pa.string()),  # JSON: CPU-seconds a step
        # Of headers, else of the scan table; null where neither says, and in rows of earlier versions.
        ("kernel", pa.string()),
        ("manufacturer", pa.string()),
        ("kvp", pa.float64()),
        ("exposure_mas", pa.float64()),  # mean over the images
        ("ctdi_vol_mgy", pa.float64()),
    ]
)
#: Columns that differ between two runs with the same results.
TIMES = ("committed", "seconds", "cpu_seconds", "steps")

#: Columns of the acquisition and reconstruction.
ACQUISITION = ("kernel", "manufacturer", "kvp", "exposure_mas", "ctdi_vol_mgy")

_KEYS = ["scan_id", "version", "state", "committed"]
_ATTEMPTS = 8  # at reading while another process compacts


def write_row(workspace: Workspace, row: dict[str, Any]) -> None:
    """Commit one scan's row. Rows of lower versions no longer count; one of the same version is replaced."""
    row = {"version": 1, **row, "committed": time.time_ns()}
    table = pa.Table.from_pylist([row], schema=SCHEMA)
    workspace.write_table(table, SCANS, _file(row["scan_id"], row["version"]))


def with_acquisition(rows: pd.DataFrame, cohort: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows whose acquisition is completed: where a column is empty, as in rows of earlier versions, from `source` and
    from the scan table."""
    import pandas as pd

    rows = rows.copy()
    sources = [json.loads(text) if isinstance(text, str) and text else {} for text in rows["source"]]
    table = None if cohort is None else cohort.drop_duplicates("scan_id").set_index("scan_id")
    for name in ACQUISITION:
        said = pd.Series([source.get(name) or None for source in sources], rows.index, dtype=object)
        if table is not None and name in table:
            said = said.where(said.notna(), rows["scan_id"].map(table[name]))
        column = rows[name].astype(object)
        rows[name] = column.where(column.notna(), said).infer_objects()
    return rows


def read_row(workspace: Workspace, scan_id: str, version: int) -> dict[str, Any] | None:
    """The finished row of this version; None if it was merged into another file or never written."""
    try:
        rows = workspace.read_table(SCANS, _file(scan_id, version)).to_pylist()
    except StageError:
        return None
    return rows[0] if rows and rows[0]["state"] != STARTED else None


def read_ledger(
    workspace: Workspace, *, columns: list[str] | None = None, started: bool = False
) -> pd.DataFrame:
    """The row that counts of every scan, sorted by scan_id. Without `columns`, everything but the shards' footers.

    Args:
        workspace: holds the ledger.
        columns: of `SCHEMA`.
        started: also rows of scans whose renewed preparation did not finish.

    Raises:
        StageError: there is no ledger yet, or one of its files is damaged.
    """
    wanted = columns or [name for name in SCHEMA.names if name != "footer"]
    table = read_files(workspace, columns=list(dict.fromkeys([*wanted, *_KEYS])))
    if table is None:
        raise StageError(
            f"{workspace.display(SCANS)} holds no scans", "Run `drasclr prepare` first", code="missing"
        )
    counting = table.take(pa.array(counting_rows(table)))
    if not started:
        counting = counting.filter(pc.not_equal(counting["state"], STARTED))
    return counting.select(wanted).to_pandas()


def _file_names(workspace: Workspace) -> list[str]:
    """Names of the ledger's files.

    A listing takes a while. Made during a compaction it may lack the merged file, for which it came too early, as well
    as the files that this replaces, for which it came too late. The merged file is complete before they are deleted, so
    that a second listing shows it.
    """
    listed = workspace.files(SCANS, suffix=".parquet")
    while True:
        again = workspace.files(SCANS, suffix=".parquet")
        if not any(map(layout.is_merged, set(again) - set(listed))):
            return listed
        listed = again


def counting_rows(table: pa.Table) -> pd.Index:
    """Positions of the rows that count: of each scan the highest version, sorted by scan_id.

    Within a version (retries of one task) finished before started, then the latest.
    """
    keys = table.select(_KEYS).to_pandas()
    keys["version"] = keys["version"].fillna(1)
    keys["finished"] = keys["state"] != STARTED
    keys = keys.sort_values(["scan_id", "version", "finished", "committed"])
    return keys.drop_duplicates("scan_id", keep="last").index


def read_files(
    workspace: Workspace, *, columns: list[str], names: list[str] | None = None
) -> pa.Table | None:
    """All rows of the ledger's files, or of some, file by file; None if there are none.

    Files that vanish between listing and reading were merged by a compaction: the folder is listed again.

    Args:
        workspace: holds the ledger.
        columns: of `SCHEMA`, and `file`, the name of the row's file.
        names: only these files.

    Raises:
        StageError: a file is damaged.
        FileNotFoundError: one of `names` is gone.
    """
    import pyarrow.dataset as pads  # imports pandas: 46 MB that a worker which writes rows does not need

    wanted = ["__filename" if name == "file" else name for name in columns]
    for attempt in range(_ATTEMPTS):
        listed = _file_names(workspace) if names is None else names
        if not listed:
            return None
        files = [workspace.path(SCANS, name) for name in listed]

        def read(files: list[str] = files) -> pa.Table:
            dataset = pads.dataset(files, schema=SCHEMA, filesystem=workspace.fs, format="parquet")
            return dataset.to_table(columns=wanted)

        try:
            return workspace.with_retries(read, SCANS).rename_columns(columns)
        except FileNotFoundError:
            if names is not None:
                raise
            time.sleep(0.05 * 2**attempt)
        except pa.ArrowInvalid as error:
            named = damaged_files(workspace, listed)
            which = (
                ", ".join(workspace.display(SCANS, name) for name in named)
                or f"a file of the ledger: {error}"
            )
            raise StageError(
                f"damaged, no whole Parquet file: {which}",
                "Delete it; the next `drasclr prepare` does its scans again",
                code="ledger",
            ) from None
    raise StageError(
        f"the files of {workspace.display(SCANS)} keep changing", "Wait until prepare is done", code="ledger"
    )


def damaged_files(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """Those of the ledger's files that cannot be read to their end."""
    found = []
    for name in names:
        try:
            workspace.read_table(SCANS, name)
        except StageError as error:
            if error.code == "damaged":
                found.append(name)
    return found


def _file(scan_id: str, version: int) -> str:
    return layout.ledger_row(scan_id, version)[-1]


def worst_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order in which to look at them: failed, rejected, flagged, accepted; each by Dice, none first.

    The state comes first because a scan that is cut off or mirrored can have a high Dice.
    """
    rank = rows["state"].map({state: -k for k, state in enumerate(STATES)}).fillna(-len(STATES))
    order = rows.assign(_rank=rank).sort_values(["_rank", "dice", "scan_id"], na_position="first")
    return order.drop(columns="_rank")


def usable(ledger: pd.DataFrame, *, use_flagged: bool) -> pd.DataFrame:
    """The rows whose patches may be used.

    Raises:
        StageError: none is.
    """
    states = ("accepted", "flagged") if use_flagged else ("accepted",)
    rows = ledger[ledger["state"].isin(states)].reset_index(drop=True)
    if rows.empty:
        counts = ", ".join(f"{count} {state}" for state, count in ledger["state"].value_counts().items())
        raise StageError(
            f"no scan can be used: {counts}",
            "Read the reasons with `drasclr status`, or in the ledger's column `reason`",
            code="no-scans",
        )
    return rows
