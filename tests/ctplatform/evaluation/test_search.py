"""Search inside a cell: on validation subjects of its own training subjects, stopped early only within the cell."""

from importlib.util import find_spec

import pytest

from ctplatform.errors import ConfigError
from ctplatform.evaluation.cells import label_subset
from ctplatform.evaluation.search import Attempt, commit, missing_searches, validation_rows
from ctplatform.evaluation.sweep import sweep
from ctplatform.evaluation.trial import evaluate
from tests.ctplatform.evaluation.search_world import FEW, FULL, searching
from tests.ctplatform.evaluation_world import RUN, build, kill_trials, publish, table


def test_validation_subjects_are_training_subjects_of_the_cell(search_world):
    context = search_world[2]
    problem = context.problems["emphysema_extent"]
    inside, outside = validation_rows(context, FULL)
    rows = label_subset(problem.task, problem.train, fraction=1.0, seed=0)
    assert sorted([*inside, *outside]) == rows.tolist()
    assert len(outside) == round(0.25 * len(rows))
    # Every quarter of the labels validates: stratified.
    values = problem.train.value_N
    assert abs(values[outside].mean() - values[inside].mean()) < 0.1


def test_the_lowest_loss_of_those_trained_longest_is_chosen(search_world):
    workspace, _, context = search_world
    attempts = [
        Attempt(0, 1e-3, 1e-4, 6, 0.5, 2.0),
        Attempt(1, 1e-2, 1e-5, 6, 0.4, 2.0),
        Attempt(2, 1e-4, 1e-6, 1, 0.1, 1.0),  # stopped on its way
    ]
    commit(context, FULL, attempts)
    chosen = context.read_chosen(FULL)
    assert (chosen.lr, chosen.weight_decay, chosen.configurations, chosen.stopped) == (1e-2, 1e-5, 3, 1)
    assert chosen.seconds == 5.0
    # The trial that follows uses it and says so.
    trial = evaluate(context, FULL)
    assert trial.details["lr"] == 1e-2
    workspace.delete("evaluation", RUN)


def test_where_nobody_can_validate_nothing_is_searched_and_it_is_said(search_world):
    context = search_world[2]
    assert validation_rows(context, FEW) is None
    assert missing_searches(context, [FEW, FULL]) == [FULL]
    trial = evaluate(context, FEW)
    assert "with 10% of the labels no hyper-parameters were searched" in trial.notes[-1]
    search_world[0].delete("evaluation", RUN)


def test_a_sweep_searches_commits_and_does_not_search_again(tmp_path, ray_local):
    """With real Tune, and Optuna where it is installed; what is finished stays.

    Processes are killed after the first configuration: nothing is missing from the choice in its cell.
    """
    workspace, cohort = build(tmp_path, subjects=30)
    publish(workspace, RUN)
    steps, killed = [], []

    def progress(done, total):
        steps.append((done, total))
        if done == 1 and not killed:
            killed.extend(kill_trials())

    algorithm = "optuna" if find_spec("optuna") else "random"
    config = searching(
        initialisations=["scratch", "finetune"],
        fractions=[1.0],
        search={"algorithm": algorithm},
        max_concurrent=2,
    )
    summary = sweep(workspace, cohort, config, run=RUN, on_progress=progress)
    assert killed
    assert (summary.trials, summary.executed, summary.messages) == (2, 2, ())
    assert steps[-1] == (2 + 6, 2 + 6)
    names = workspace.files("evaluation", RUN, "searches")
    assert names == ["emphysema_extent-finetune-1-0.json", "emphysema_extent-scratch-1-0.json"]
    for name in names:
        record = workspace.read_json("evaluation", RUN, "searches", name)
        assert [a["number"] for a in record["attempts"]] == [0, 1, 2]
        assert len({a["lr"] for a in record["attempts"]}) == 3
        done = [a for a in record["attempts"] if a["steps"] == 6]
        assert record["chosen"]["lr"] == min(done, key=lambda a: a["loss"])["lr"]
        assert record["chosen"]["stopped"] == 3 - len(done)
    details = table(workspace, "details").pivot(index="initialisation", columns="name", values="value")
    assert details["configurations"].tolist() == [3, 3]
    # The trial lost, the search kept.
    workspace.delete("evaluation", RUN, "trials", "emphysema_extent-scratch-1-0.parquet")
    steps.clear()
    before = table(workspace, "predictions")
    again = sweep(workspace, cohort, config, run=RUN, on_progress=lambda *step: steps.append(step))
    assert again.executed == 1
    assert steps[-1] == (2, 2)
    assert table(workspace, "predictions").equals(before)


def test_a_range_must_be_one():
    with pytest.raises(ConfigError, match="lr_factor: a range"):
        searching(search={"lr_factor": [2.0, 1.0]})
    with pytest.raises(ConfigError, match="set 0, or 2 and more"):
        searching(search={"configurations": 1})
