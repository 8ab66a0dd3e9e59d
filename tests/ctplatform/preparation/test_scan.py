"""One scan: whatever happens to it ends in its row, and a repeated or interrupted attempt loses nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.config.preparation import ShardsConfig
from ctplatform.dataset import ledger, shards
from ctplatform.errors import ScanError, StageError
from ctplatform.preparation.scan import StepClock, commit, new_row, prepare_scan
from ctplatform.storage.layout import ATLAS, OVERLAYS, PATCHES, SCANS
from ctplatform.storage.workspace import Workspace
from tests.conftest import ROOT

ITEM = {
    "scan_id": "a",
    "subject_id": "p",
    "path": "/secret/name.nii.gz",
    "series_uid": "",
    "fingerprint": "f",
    "version": 1,
    "cause": "new",
    "old": "",
}
CONFIG = load_recipe("demo").prepare


@pytest.fixture
def workspace(unprepared):
    return unprepared


def prepared_by(workspace, process, **changes):
    return prepare_scan(workspace, ITEM | changes, CONFIG, config_hash="settings", process=process)


def accepted(workspace, item, *_):
    workspace.write_bytes(b"shard", PATCHES, f"{item['scan_id']}.parquet")
    return {"state": "accepted", "dice": 0.9, "patches": 3}


def raising(error):
    def process(*_):
        raise error

    return process


def test_the_row_holds_provenance_and_what_was_found(workspace):
    row = prepared_by(workspace, accepted)
    (stored,) = ledger.read_ledger(workspace).to_dict("records")
    for name in (
        "scan_id",
        "subject_id",
        "fingerprint",
        "config_hash",
        "software",
        "atlas_hash",
        "state",
        "dice",
    ):
        assert stored[name] == row[name]
    assert (stored["state"], stored["dice"], stored["patches"], stored["config_hash"]) == (
        "accepted",
        0.9,
        3,
        "settings",
    )
    assert stored["seconds"] >= 0


def test_an_error_of_the_scan_is_its_row(workspace):
    row = prepared_by(workspace, raising(ScanError("no lungs", "Take another", code="no-lungs")))
    assert (row["state"], row["reason"], row["remedy"], row["code"]) == (
        "failed",
        "no lungs",
        "Take another",
        "no-lungs",
    )
    assert ledger.read_ledger(workspace)["code"].tolist() == ["no-lungs"]


def test_an_unexpected_error_is_named_without_its_message(workspace):
    """Messages hold paths, and paths names."""
    row = prepared_by(workspace, raising(ZeroDivisionError("in /secret/name.nii.gz")))
    assert row["code"] == "unexpected"
    assert "ZeroDivisionError" in row["reason"]
    assert "secret" not in str({k: v for k, v in row.items() if k != "path"})


SLOW = """
import sys, time
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.preparation.test_scan import CONFIG, ITEM
from ctplatform.preparation.scan import prepare_scan
limited = CONFIG.model_copy(update={"max_seconds": 0.1})
prepare_scan(Workspace(sys.argv[1]), ITEM, limited, config_hash="settings", process=lambda *_: time.sleep(300))
"""


def test_a_scan_beyond_its_time_ends_its_worker_and_is_not_begun_again(workspace):
    ended = subprocess.run([sys.executable, "-c", SLOW, workspace.uri], cwd=ROOT, check=False)
    assert ended.returncode == 1
    row = prepared_by(workspace, raising(AssertionError("begun again")))
    assert (row["state"], row["code"]) == ("failed", "too-slow")
    assert row["reason"].startswith("the scan took longer than prepare.max_seconds=0.1")


def test_an_error_that_is_not_the_scans_own_leaves_no_row(workspace):
    with pytest.raises(StageError, match="disk"):
        prepared_by(workspace, raising(StageError("the disk is full", "Empty it", code="disk-full")))
    assert not workspace.files(SCANS, suffix=".parquet")


def test_a_finished_scan_is_not_done_again_unless_something_changed(workspace):
    prepared_by(workspace, accepted)
    never = raising(AssertionError("done again"))
    assert prepared_by(workspace, never)["state"] == "accepted"
    for changes in ({"fingerprint": "g"}, {"subject_id": "q"}, {"version": 2}):
        assert prepared_by(workspace, never, **changes)["code"] == "unexpected", changes


def test_without_a_version_it_is_always_prepared(workspace):
    prepared_by(workspace, accepted)
    item = {name: value for name, value in ITEM.items() if name != "version"}
    again = prepare_scan(
        workspace, item, CONFIG, config_hash="settings", process=lambda *_: {"state": "flagged"}
    )
    assert again["state"] == "flagged"


def test_a_renewed_scan_is_invisible_until_its_row_is_written(workspace):
    prepared_by(workspace, accepted)
    seen = []

    def look(*arguments):
        seen.append(ledger.read_ledger(workspace, started=True)["state"].tolist())
        return accepted(*arguments)

    old = '{"subject_id": "p", "code": "", "fingerprint": "f", "atlas_hash": "x", "config_hash": "y"}'
    prepared_by(workspace, look, version=2, old=old)
    assert seen == [[ledger.STARTED]]
    assert ledger.read_ledger(workspace)["version"].tolist() == [2]


@pytest.mark.parametrize(
    ("state", "left"), [("accepted", [1, 1]), ("flagged", [1, 1]), ("rejected", [0, 1]), ("failed", [0, 0])]
)
def test_shard_and_overlay_stay_where_they_are_of_use(workspace, state, left):
    workspace.write_bytes(b"shard", PATCHES, "a.parquet")
    workspace.write_bytes(b"overlay", SCANS, OVERLAYS, "a.png")
    commit(workspace, new_row(ITEM, "settings") | {"state": state})
    found = [workspace.exists(PATCHES, "a.parquet"), workspace.exists(SCANS, OVERLAYS, "a.png")]
    assert found == [bool(n) for n in left]
    assert ledger.read_ledger(workspace)["state"].tolist() == [state]


def test_the_clock_counts_the_steps_it_ran():
    clock = StepClock()
    with clock.step("busy"):
        sum(range(300_000))
    with pytest.raises(KeyError), clock.step("broken"):
        raise KeyError
    assert list(clock.steps) == ["busy", "broken"]
    assert 0 < clock.steps["busy"] <= clock.cpu() + 1e-3
    assert clock.wall() > 0


def test_another_compression_of_shards_keeps_the_patches(prepared, small_recipe, tmp_path):
    """Beside a shard that was packed otherwise: the scan's own row and patches are the same, the file is smaller."""
    source, cohort = prepared
    rows = ledger.read_ledger(source).set_index("scan_id")
    row = next(r for r in cohort.to_dict("records") if rows.loc[r["scan_id"], "patches"] > 0)
    workspace = Workspace(tmp_path)
    for name in source.files(ATLAS):
        workspace.write_bytes(source.read_bytes(ATLAS, name), ATLAS, name)
    config = small_recipe.prepare.model_copy(update={"shards": ShardsConfig(compression="small")})
    item = ITEM | {name: row[name] for name in ("scan_id", "subject_id", "path")}
    found = prepare_scan(workspace, item, config, config_hash="settings")
    before = rows.loc[row["scan_id"]]
    assert (found["content_hash"], found["measures"]) == (before["content_hash"], before["measures"])
    assert found["shard_bytes"] < 0.9 * before["shard_bytes"]
    for one, other in zip(
        shards.read_patches(workspace, row["scan_id"]),
        shards.read_patches(source, row["scan_id"]),
        strict=True,
    ):
        assert np.array_equal(one, other)
