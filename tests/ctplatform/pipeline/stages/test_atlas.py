"""Stage `atlas`: its digest is the atlas's hash, and discarding it leaves atlas and template to be compared with."""

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.stages.atlas import STAGE


def test_the_digest_is_the_hash_of_the_atlas(world):
    assert STAGE.outputs["atlas"](world.state()) == "0123456789ab"
    world.workspace.delete("atlas", "stage.json")
    assert STAGE.outputs["atlas"](world.state()) == ""


def test_discarding_removes_only_what_marks_it_as_made(world):
    assert world.removed_by(STAGE) == {"atlas/stage.json"}


def test_a_given_atlas_depends_on_no_lung_masks():
    built, given = load_recipe("demo"), load_recipe("demo", ["atlas.source=/given"])
    assert any(key.startswith("prepare.lungs") for key in STAGE.settings_in(built))
    assert not any(key.startswith("prepare.lungs") for key in STAGE.settings_in(given))
