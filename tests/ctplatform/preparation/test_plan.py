"""What a run will do and why: every kind of change is recognised, named, and nothing else is redone."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.dataset import ledger
from ctplatform.imaging.fingerprint import fingerprint
from ctplatform.preparation.plan import Plan, make_plan, settings_hash
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace

ATLAS = "atlas-1"


@pytest.fixture
def world(tmp_path):
    """(workspace, cohort): three finished scans of the recipe `fast`, as files of a few bytes."""
    workspace, recipe = Workspace(tmp_path / "ws"), load_recipe("fast")
    rows = []
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(name.encode() * 10)
        rows.append({"scan_id": name, "subject_id": f"p-{name}", "path": str(path), "series_uid": ""})
    cohort = pd.DataFrame(rows)
    plan = make_plan(workspace, cohort, recipe, ATLAS)
    assert plan.causes == {"new": 3}
    for item in plan.items:
        finish(workspace, item, settings_hash(recipe, ATLAS))
    return workspace, cohort


def finish(workspace: Workspace, item: dict, settings: str, **more: object) -> None:
    workspace.write_bytes(b"x" * 7, PATCHES, f"{item['scan_id']}.parquet")
    row = {k: item[k] for k in ("scan_id", "subject_id", "fingerprint", "version", "cause")}
    row |= {"state": "accepted", "code": "", "config_hash": settings, "atlas_hash": ATLAS, "shard_bytes": 7}
    ledger.write_row(workspace, row | more)


def plan_of(world, *overrides: str, atlas_hash: str = ATLAS) -> Plan:
    workspace, cohort = world
    return make_plan(workspace, cohort, load_recipe("fast", overrides), atlas_hash)


def test_nothing_changed_nothing_to_do(world):
    plan = plan_of(world)
    assert plan.items == []
    assert plan.lines() == ["3 done before"]


def test_a_changed_setting_is_named_with_both_values(world):
    plan = plan_of(world, "prepare.quality.flag_dice=0.71")
    assert plan.lines() == ["3 again: prepare.quality.flag_dice changed from 0.7 to 0.71"]
    assert {item["version"] for item in plan.items} == {2}


@pytest.mark.parametrize(
    "override",
    [
        "prepare.num_cpus=2",
        "prepare.memory_gb=3",
        "prepare.quality.use_flagged=false",
        "prepare.shards.compression=small",
    ],
)
def test_what_does_not_change_the_patches_redoes_nothing(world, override):
    assert plan_of(world, override).items == []


def test_another_atlas(world):
    assert plan_of(world, atlas_hash="atlas-2").lines() == ["3 again: the atlas changed"]
    both = plan_of(world, "prepare.hu_window=[-1000,200]", atlas_hash="atlas-2").lines()
    assert both == ["3 again: the atlas changed, prepare.hu_window changed from [-1024, 240] to [-1000, 200]"]


def test_each_scan_has_its_own_cause(world, tmp_path):
    workspace, cohort = world
    Path(cohort["path"][0]).write_bytes(b"other content")
    cohort.loc[1, "subject_id"] = "somebody-else"
    workspace.delete(PATCHES, "c.parquet")
    (tmp_path / "d.nii.gz").write_bytes(b"d")
    new = {"scan_id": "d", "subject_id": "d", "path": str(tmp_path / "d.nii.gz"), "series_uid": ""}
    cohort = pd.concat([cohort, pd.DataFrame([new])], ignore_index=True)
    plan = plan_of((workspace, cohort))
    assert {item["scan_id"]: item["cause"] for item in plan.items} == {
        "a": "input",
        "b": "subject",
        "c": "shard",
        "d": "new",
    }
    assert "1 again: their files changed" in plan.lines()
    assert "1 new" in plan.lines()


def test_a_file_that_was_only_touched_counts_as_changed_and_a_moved_one_does_not(world, tmp_path):
    """Times and sizes are looked at, contents are not: that would mean to read everything."""
    workspace, cohort = world
    os.utime(cohort["path"][0], (1, 1))
    (tmp_path / "moved").mkdir()
    cohort.loc[1, "path"] = str(Path(cohort["path"][1]).rename(tmp_path / "moved" / "x.nii.gz"))
    assert [item["scan_id"] for item in plan_of((workspace, cohort)).items] == ["a"]


def test_results_outlive_their_source(world):
    """A disk that is not mounted today must not cost the scans that were prepared yesterday."""
    workspace, cohort = world
    Path(cohort["path"][0]).unlink()
    plan = plan_of((workspace, cohort))
    assert plan.items == []
    assert plan.lines() == ["3 done before", "1 of them kept although their source cannot be reached now"]


def test_failures_that_may_pass_are_tried_again_others_are_not(world):
    workspace, cohort = world
    settings = settings_hash(load_recipe("fast"), ATLAS)
    for k, code in enumerate(("io-error", "not-hu")):
        item = {**cohort.loc[k].to_dict(), "version": 2, "cause": "input"}
        item["fingerprint"] = fingerprint(item["path"])
        finish(workspace, item, settings, state="failed", code=code, shard_bytes=None)
    plan = plan_of(world)
    assert [(item["scan_id"], item["cause"], item["version"]) for item in plan.items] == [
        ("a", "retry: io-error", 3)
    ]
    assert plan.lines()[0] == "1 again: they failed before (io-error)"


def test_a_renewal_that_never_ended_is_done_under_the_same_version_and_cause(world):
    workspace, _ = world
    item = plan_of(world, "prepare.overlays=false").items[0]
    import json

    mark = {"scan_id": item["scan_id"], "version": item["version"], "state": ledger.STARTED}
    ledger.write_row(workspace, mark | json.loads(item["old"]))
    assert plan_of(world, "prepare.overlays=false").items[0] == item
    assert [i["cause"] for i in plan_of(world).items] == ["interrupted"], "back to the old settings"
