"""Stage `sweep`: its digest follows the summary; discarding removes the evaluation of the run."""

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.stages.sweep import STAGE
from tests.ctplatform.pipeline.stages.conftest import OTHER


def test_the_digest_follows_the_summary(world):
    before = STAGE.outputs["results"](world.state())
    assert len(before) == 12
    world.workspace.write_bytes(b"other", "evaluation", world.run, "summary.parquet")
    assert STAGE.outputs["results"](world.state()) not in ("", before)
    world.workspace.delete("evaluation", world.run, "summary.parquet")
    assert STAGE.outputs["results"](world.state()) == ""


def test_discarding_removes_the_evaluation_of_its_run(world):
    assert world.removed_by(STAGE) == {
        f"evaluation/{world.run}/{name}" for name in ("summary.parquet", "report.html")
    }
    assert f"evaluation/{OTHER}/summary.parquet" in world.files()


def test_fine_tuning_matters_only_where_something_is_fine_tuned():
    frozen = "sweep.initialisations=[drasclr,density]"
    tuned = "sweep.initialisations=[drasclr,finetune]"
    for initialisations, same in ((frozen, True), (tuned, False)):
        one, other = (
            STAGE.settings_in(load_recipe("demo", [initialisations, f"sweep.finetune.lr={lr}"]))
            for lr in (1e-4, 1e-3)
        )
        assert (one == other) == same
