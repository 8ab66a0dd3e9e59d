"""Stage `report`: its digest follows the page; it costs nothing and replaces itself."""

from ctplatform.pipeline.costs import Costs, Size
from ctplatform.pipeline.stages.report import STAGE


def test_the_digest_follows_the_page(world):
    before = STAGE.outputs["report"](world.state())
    assert len(before) == 12
    world.workspace.write_bytes(b"other", "evaluation", world.run, "report.html")
    assert STAGE.outputs["report"](world.state()) not in ("", before)
    world.workspace.delete("evaluation", world.run, "report.html")
    assert STAGE.outputs["report"](world.state()) == ""


def test_it_has_nothing_to_discard_and_no_cost(world):
    assert STAGE.discard is None
    assert STAGE.work(world.recipe, Size(scans=10, training_scans=5, locations=9), Costs()).amount == 0
