"""Stage `split`: its digest follows the file, and it is never discarded."""

from ctplatform.dataset.splits import Split, write_split
from ctplatform.pipeline.stages.split import STAGE


def test_the_digest_follows_the_file(world):
    before = STAGE.outputs["split"](world.state())
    assert len(before) == 12
    write_split(world.workspace, Split(("p0",), ("p1",)))
    assert STAGE.outputs["split"](world.state()) not in ("", before)
    world.workspace.delete("splits.json")
    assert STAGE.outputs["split"](world.state()) == ""


def test_it_is_never_discarded():
    """Subjects would change sides under weights that were trained on them."""
    assert STAGE.discard is None
