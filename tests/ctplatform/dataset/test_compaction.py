"""Compaction changes nothing that a reader sees, wherever it is killed; leftovers of killed writers go."""

from __future__ import annotations

import os
import threading
import time

import pandas as pd
import pytest

from ctplatform.dataset import compaction, ledger
from ctplatform.storage.layout import PATCHES, SCANS
from ctplatform.storage.workspace import TEMPORARY, Workspace
from tests.ctplatform.dataset.rows import write


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def everything(workspace: Workspace) -> pd.DataFrame:
    return ledger.read_ledger(workspace, columns=ledger.SCHEMA.names, started=True)


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


def test_compaction_is_idempotent_and_leaves_full_files_alone(workspace):
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


@pytest.mark.parametrize("seen", [0, 3])
def test_a_listing_during_a_compaction_is_made_again(workspace, monkeypatch, seen):
    """It came too early for the merged file, and too late for most of those that are replaced."""
    fill(workspace, 10)
    before = workspace.files(SCANS, suffix=".parquet")
    table = ledger.read_ledger(workspace)
    contents = {name: workspace.read_bytes(SCANS, name) for name in before[:seen]}
    compaction.compact(workspace)
    for name, data in contents.items():  # those that were still there as they were read
        workspace.write_bytes(data, SCANS, name)
    whole, torn = Workspace.files, [before[:seen]]
    monkeypatch.setattr(
        Workspace, "files", lambda self, *parts, **more: torn.pop() if torn else whole(self, *parts, **more)
    )
    assert ledger.read_ledger(workspace).equals(table)
    assert not torn


def test_leftovers_of_killed_writers_are_removed_once_they_are_old(workspace, tmp_path):
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
