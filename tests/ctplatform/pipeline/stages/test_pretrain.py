"""Stage `pretrain`: its digest is that of the run's card; discarded weights stay, under a name of their own."""

import re

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.stages.pretrain import STAGE
from tests.ctplatform.pipeline.stages.conftest import OTHER


def test_the_digest_is_that_of_the_card(world):
    before = STAGE.outputs["weights"](world.state())
    world.workspace.write_bytes(b"other", "pretrain", world.run, "weights.safetensors")
    assert STAGE.outputs["weights"](world.state()) == before != ""
    world.workspace.write_bytes(b"other", "pretrain", world.run, "card.json")
    assert STAGE.outputs["weights"](world.state()) not in ("", before)


def test_discarded_weights_are_kept_beside(world):
    before = world.files()
    assert world.removed_by(STAGE) == {
        f"pretrain/{world.run}/card.json",
        f"pretrain/{world.run}/weights.safetensors",
    }
    new = sorted(world.files() - before)
    assert [re.sub(r"-before-\w+", "", name) for name in new] == [
        f"pretrain/{world.run}/card.json",
        f"pretrain/{world.run}/weights.safetensors",
    ]
    kept = world.workspace.read_bytes(*new[1].split("/"))
    assert kept == f"pretrain/{world.run}/weights.safetensors".encode()
    assert f"pretrain/{OTHER}/card.json" in world.files()
    assert STAGE.outputs["weights"](world.state()) == ""


def test_where_it_runs_changes_no_result():
    few, many = (load_recipe("demo", [f"pretrain.num_workers={n}", "pretrain.log_every=3"]) for n in (0, 2))
    assert STAGE.settings_in(few) == STAGE.settings_in(many)
    assert STAGE.settings_in(few) != STAGE.settings_in(load_recipe("demo", ["pretrain.lr=0.5"]))
