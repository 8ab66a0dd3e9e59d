"""Of several rows of a scan the right one counts."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pytest

from ctplatform.dataset import ledger
from ctplatform.errors import StageError
from ctplatform.storage.layout import SCANS
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.dataset.rows import write


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def test_the_highest_version_counts_whatever_the_clocks_say(workspace):
    write(workspace, "a", version=2, reason="second")
    write(workspace, "a", version=1, reason="first, by a worker whose clock is late")
    write(workspace, "b")
    rows = ledger.read_ledger(workspace)
    assert rows["scan_id"].tolist() == ["a", "b"]
    assert rows["reason"].tolist()[0] == "second"


def test_a_scan_that_is_being_renewed_is_invisible_until_it_is_done(workspace):
    write(workspace, "a")
    write(workspace, "b")
    write(workspace, "a", version=2, state=ledger.STARTED)
    assert ledger.read_ledger(workspace)["scan_id"].tolist() == ["b"]
    assert ledger.read_row(workspace, "a", 2) is None
    write(workspace, "a", version=2)
    assert ledger.read_ledger(workspace)["version"].tolist() == [2, 1]
    assert ledger.read_row(workspace, "a", 2)["state"] == "accepted"


def test_a_row_of_the_same_version_replaces(workspace):
    """What a retried task does."""
    write(workspace, "a", reason="once")
    write(workspace, "a", reason="twice")
    assert ledger.read_ledger(workspace)["reason"].tolist() == ["twice"]


def test_names_of_scans_never_collide(workspace):
    """Version numbers are part of file names, and so may be digits and dots of a scan_id."""
    for scan in ("a", "a.2", "a.2.1", "rows-1"):
        for version in (1, 2):
            write(workspace, scan, version=version)
    rows = ledger.read_ledger(workspace)
    assert rows["scan_id"].tolist() == ["a", "a.2", "a.2.1", "rows-1"]
    assert (rows["version"] == 2).all()


def test_a_damaged_file_is_named(workspace):
    write(workspace, "a")
    workspace.write_bytes(b"", SCANS, "b.1.parquet")
    with pytest.raises(StageError, match="Delete it"):
        ledger.read_ledger(workspace)


def test_a_ledger_row_survives_a_round_trip(workspace):
    row = {
        "scan_id": "x",
        "subject_id": "y",
        "state": "flagged",
        "dice": 0.5,
        "affine": [1.0] * 16,
        "footer": b"123",
    }
    ledger.write_row(workspace, row)
    back = ledger.read_ledger(workspace, columns=["scan_id", "state", "dice", "affine", "footer", "reason"])
    assert back.loc[0, "footer"] == b"123"
    assert back.loc[0, "dice"] == 0.5
    assert back.loc[0, "reason"] is None
    assert pa.table(back[["scan_id"]]).num_rows == 1


def test_rows_of_earlier_versions_have_no_acquisition_but_their_source_and_the_table_do(workspace):
    write(workspace, "new", kernel="B30f", manufacturer="Siemens", exposure_mas=40.0, source="{}")
    source = json.dumps({"format": "DICOM", "kernel": "FC51", "manufacturer": "Toshiba"})
    earlier = pa.schema([field for field in ledger.SCHEMA if field.name not in ledger.ACQUISITION])
    row = {
        "scan_id": "old",
        "subject_id": "p",
        "version": 1,
        "state": "accepted",
        "source": source,
        "committed": 1,
    }
    workspace.write_table(pa.Table.from_pylist([row], schema=earlier), SCANS, "old.1.parquet")
    rows = ledger.read_ledger(workspace)
    assert rows.set_index("scan_id").loc["old", list(ledger.ACQUISITION)].isna().all()
    table = pd.DataFrame(
        {"scan_id": ["old", "new"], "kernel": ["B70f", "B70f"], "exposure_mas": [30.0, 30.0]}
    )
    full = ledger.with_acquisition(rows, table).set_index("scan_id")
    assert full.loc["old", ["kernel", "manufacturer", "exposure_mas"]].tolist() == ["FC51", "Toshiba", 30.0]
    assert full.loc["new", ["kernel", "manufacturer", "exposure_mas"]].tolist() == ["B30f", "Siemens", 40.0]
    assert full["ctdi_vol_mgy"].isna().all()


def test_what_to_look_at_first():
    rows = pd.DataFrame(
        [("a", "accepted", 0.6), ("b", "flagged", 0.9), ("c", "flagged", 0.7), ("d", "rejected", 0.8),
         ("e", "failed", None), ("f", "rejected", None)],
        columns=["scan_id", "state", "dice"],
    )  # fmt: skip
    for shuffled in (rows, rows[::-1]):
        assert "".join(ledger.worst_first(shuffled)["scan_id"]) == "efdcba"
    assert ledger.worst_first(rows[:0]).empty
