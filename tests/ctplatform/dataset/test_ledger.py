"""Of several rows of a scan the right one counts, and compaction changes nothing that a reader sees."""

from __future__ import annotations

import os
import threading
import time

import pandas as pd
import pytest

from ctplatform.dataset import compaction, ledger
from ctplatform.errors import StageError
from ctplatform.storage.layout import PATCHES, SCANS
from ctplatform.storage.workspace import TEMPORARY, Workspace


def write(
    workspace: Workspace, scan: str, *, version: int = 1, state: str = "accepted", **more: object
) -> None:
    row = {"scan_id": scan, "subject_id": f"p-{scan}", "version": version, "state": state, **more}
    ledger.write_row(workspace, {"affine": [float(version)] * 16, "footer": b"f" * 50, **row})


def everything(workspace: Workspace) -> pd.DataFrame:
    return ledger.read_ledger(workspace, columns=ledger.SCHEMA.names, started=True)


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
    with pytest.raises(StageError, match="Delete that file"):
        ledger.read_ledger(workspace)


def fill(workspace: Workspace, count: int) -> None:
    for number in range(count):
        write(workspace, f"s{number:03d}", reason=str(number))


def test_compaction_changes_nothing_but_the_files(workspace):
    fill(workspace, 23)
    write(workspace, "s004", version=2, reason="again")
    write(workspace, "s005", version=2, state=ledger.STARTED)
    before = everything(workspace)
    assert compaction.compact(workspace, rows_per_file=10) == 24
    pd.testing.assert_frame_equal(everything(workspace), before)
    files = workspace.files(SCANS, suffix=".parquet")
    assert len(files) == 4, "22 rows in three, and the renewal's mark"
    assert "s005.2.parquet" in files
    assert compaction.compact(workspace, rows_per_file=10) <= 2
    pd.testing.assert_frame_equal(everything(workspace), before)


def test_it_is_idempotent_and_leaves_full_files_alone(workspace):
    fill(workspace, 10)
    assert compaction.compact(workspace, rows_per_file=10) == 10
    (full,) = workspace.files(SCANS, suffix=".parquet")
    assert compaction.compact(workspace, rows_per_file=10) == 0
    write(workspace, "x")
    write(workspace, "y")
    assert compaction.compact(workspace, rows_per_file=10) == 2
    assert full in workspace.files(SCANS, suffix=".parquet"), "two new rows do not rewrite ten"
    assert len(ledger.read_ledger(workspace)) == 12
    write(workspace, "s003", version=2)
    compaction.compact(workspace, rows_per_file=10)
    assert full not in workspace.files(SCANS, suffix=".parquet"), "a row that no longer counts goes"
    assert len(ledger.read_ledger(workspace)) == 12


@pytest.mark.parametrize("survives", range(6))
def test_killed_anywhere_it_loses_nothing(workspace, monkeypatch, survives):
    """Stopped before its first write, and after each of its writes and deletions."""
    fill(workspace, 4)
    before = everything(workspace)
    steps = 0

    class Killed(BaseException):
        pass

    def counted(action):
        def run(*arguments, **named):
            nonlocal steps
            if steps == survives:
                raise Killed
            steps += 1
            return action(*arguments, **named)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "write_table", counted(Workspace.write_table))
        patch.setattr(Workspace, "delete", counted(Workspace.delete))
        if survives < 5:
            with pytest.raises(Killed):
                compaction.compact(workspace)
        else:
            compaction.compact(workspace)
    pd.testing.assert_frame_equal(everything(workspace), before)
    compaction.compact(workspace)
    pd.testing.assert_frame_equal(everything(workspace), before)
    assert len(workspace.files(SCANS, suffix=".parquet")) == 1


def test_readers_beside_compaction_see_every_scan(workspace):
    """A reader in a loop while rows come and are merged: never an error, never fewer rows than before."""
    fill(workspace, 10)
    stop, counts, errors = threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            try:
                counts.append(len(ledger.read_ledger(workspace, columns=["scan_id", "footer"])))
            except Exception as error:
                errors.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(10, 40, 5):
        for k in range(5):
            write(workspace, f"s{number + k:03d}")
        compaction.compact(workspace)
    time.sleep(0.05)
    stop.set()
    reader.join()
    assert not errors
    assert counts == sorted(counts)
    assert len(counts) > 2
    assert len(ledger.read_ledger(workspace)) == 40


def test_what_killed_writers_left_is_swept_once_it_is_old(workspace, tmp_path):
    write(workspace, "a")
    write(workspace, "b", version=2, state=ledger.STARTED)
    write(workspace, "c", state="rejected")
    for name in ("a", "b", "c", "orphan", "young"):
        workspace.write_bytes(b"shard", PATCHES, f"{name}.parquet")
    (tmp_path / "patches" / f"{TEMPORARY}1-a.parquet").write_bytes(b"half")
    for file in (tmp_path / "patches").iterdir():
        if "young" not in file.name:
            os.utime(file, (0, time.time() - 7200))
    assert compaction.remove_leftovers(workspace) == [
        f"{TEMPORARY}1-a.parquet",
        "c.parquet",
        "orphan.parquet",
    ]
    assert sorted(p.name for p in (tmp_path / "patches").iterdir()) == [
        "a.parquet",
        "b.parquet",
        "young.parquet",
    ]
