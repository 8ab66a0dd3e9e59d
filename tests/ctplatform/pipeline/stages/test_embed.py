"""Stage `embed`: complete with the vectors of every encoder of the recipe; discarding removes those of the run."""

from ctplatform.pipeline.stages.embed import STAGE
from tests.ctplatform.pipeline.stages.conftest import OTHER


def test_the_digest_needs_every_encoder(world):
    before = STAGE.outputs["embeddings"](world.state())
    assert len(before) == 12
    world.workspace.write_bytes(b"other", "embeddings", world.run, "patients-random.parquet")
    assert STAGE.outputs["embeddings"](world.state()) not in ("", before)
    world.workspace.delete("embeddings", world.run, "patients-drasclr.parquet")
    assert STAGE.outputs["embeddings"](world.state()) == ""


def test_discarding_removes_the_vectors_of_its_run(world):
    assert world.removed_by(STAGE) == {
        f"embeddings/{world.run}/patients-{name}.parquet" for name in world.recipe.embed.encoders
    }
    assert f"embeddings/{OTHER}/patients-drasclr.parquet" in world.files()


def test_without_a_run_nothing_is_removed(world):
    world.workspace.delete("splits.json")
    assert world.removed_by(STAGE) == set()
