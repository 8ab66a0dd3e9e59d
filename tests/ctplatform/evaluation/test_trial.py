"""One trial: fit, predict, commit."""

from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.trial import evaluate
from ctplatform.tasks.registry import get_task
from tests.ctplatform.evaluation_world import RUN, build, recipe


def test_a_fraction_too_small_to_fit_is_raised_and_said(tmp_path):
    workspace, cohort = build(tmp_path, with_shards=False)
    context, _ = assemble(workspace, cohort, recipe(), run=RUN)
    trial = evaluate(context, Cell("survival", "density", 0.05, 0))
    assert trial.n_train >= get_task("survival").minimum
    assert "5% of 24 labelled training subjects is too few to fit" in trial.notes[0]


def test_test_labels_do_not_reach_the_fit(tmp_path):
    """Other labels of the test subjects change no prediction."""
    workspace, cohort = build(tmp_path, with_shards=False)
    context, _ = assemble(workspace, cohort, recipe(), run=RUN)
    test = set(context.problems["survival"].test_subjects)
    swapped = cohort.copy()
    mine = swapped["subject_id"].isin(test)
    for column in ("emphysema_extent", "gold_stage", "survival_days", "death"):
        swapped.loc[mine, column] = swapped.loc[mine, column].to_numpy()[::-1]
    other, _ = assemble(workspace, swapped, recipe(), run=RUN)
    for name in context.problems:
        cell = Cell(name, "drasclr", 0.3, 1)
        a, b = (evaluate(s, cell).predictions for s in (context, other))
        assert a["prediction"].tolist() == b["prediction"].tolist()
        assert a["target"].tolist() != b["target"].tolist()
