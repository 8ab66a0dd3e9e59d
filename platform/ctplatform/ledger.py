"""The ledger: one row a scan, the record of what happened to it. A scan counts once its row is there.

Each row is its own small file, written by the worker that handled the scan, after the shard: readers that start from
the ledger see committed scans only.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads

from ctplatform.errors import StageError
from ctplatform.workspace import Workspace

FOLDER = "scans"
STATES = ("accepted", "flagged", "rejected", "failed")
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
        ("content_hash", pa.string()),
        ("fingerprint", pa.string()),
        ("atlas_hash", pa.string()),
        ("config_hash", pa.string()),
        ("software", pa.string()),
        ("patches", pa.int32()),
        ("shard_bytes", pa.int64()),
        ("footer", pa.binary()),
        ("seconds", pa.float64()),
        ("cpu_seconds", pa.float64()),
        ("steps", pa.string()),  # JSON: CPU-seconds a step
    ]
)


def write_row(workspace: Workspace, row: dict[str, Any]) -> None:
    """Commit one scan's row; an earlier row of the same scan is replaced."""
    workspace.write_table(pa.Table.from_pylist([row], schema=SCHEMA), FOLDER, f"{row['scan_id']}.parquet")


def read_ledger(workspace: Workspace, *, columns: list[str] | None = None) -> pd.DataFrame:
    """All rows, sorted by scan_id. Without `columns`, everything but the shards' footers.

    Raises:
        StageError: there is no ledger yet.
    """
    names = workspace.files(FOLDER, suffix=".parquet")
    if not names:
        raise StageError(
            f"{workspace.display(FOLDER)} holds no scans", "Run `drasclr prepare` first", code="missing"
        )
    wanted = columns or [name for name in SCHEMA.names if name != "footer"]
    files = [workspace.path(FOLDER, name) for name in names]
    table = pads.dataset(files, schema=SCHEMA, filesystem=workspace.fs, format="parquet").to_table(
        columns=wanted
    )
    frame = table.to_pandas()
    return frame.sort_values("scan_id", ignore_index=True) if "scan_id" in frame else frame


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
