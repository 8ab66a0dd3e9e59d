"""Stage `prepare`: digests of ledger and shards, and what discarding makes undone."""

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.stages.prepare import STAGE


def test_digests_follow_rows_and_shards(world):
    ledger, patches = (STAGE.outputs[name](world.state()) for name in ("ledger", "patches"))
    assert len(ledger) == len(patches) == 12
    assert [STAGE.outputs[name](world.state()) for name in ("ledger", "patches")] == [ledger, patches]
    world.workspace.delete("patches", "s0.parquet")
    assert STAGE.outputs["patches"](world.state()) != patches
    assert STAGE.outputs["ledger"](world.state()) == ledger


def test_an_empty_workspace_has_neither(world):
    world.workspace.delete("scans")
    world.workspace.delete("patches")
    assert [STAGE.outputs[name](world.state()) for name in ("ledger", "patches")] == ["", ""]


def test_discarding_forgets_all_scans_and_keeps_their_shards(world):
    removed = world.removed_by(STAGE)
    assert removed
    assert all(name.startswith("scans/") for name in removed)
    assert not [name for name in world.files() if name.startswith("scans/")]
    assert len([name for name in world.files() if name.startswith("patches/")]) == 7


def test_where_it_runs_changes_no_result():
    few, many = (load_recipe("demo", [f"prepare.num_cpus={n}"]) for n in (1, 2))
    assert STAGE.settings_in(few) == STAGE.settings_in(many)
    assert "prepare.num_cpus" not in STAGE.settings_in(few)
