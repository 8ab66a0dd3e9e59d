"""Search inside a cell: on validation subjects of its own training subjects, stopped early only within the cell."""

from importlib.util import find_spec

import numpy as np
import pytest

from ctplatform.errors import ConfigError
from ctplatform.evaluation.cells import Cell, label_subset, read_chosen
from ctplatform.evaluation.problems import assemble
from ctplatform.evaluation.schedulers import CellASHA, configurations, optuna_search, rungs
from ctplatform.evaluation.search import Attempt, commit, missing_searches, validation_rows
from ctplatform.evaluation.sweep import sweep
from ctplatform.evaluation.trial import run_trial
from tests.ctplatform.evaluation.test_sweep import publish, recipe, table
from tests.ctplatform.evaluation_world import RUN, build


def searching(**keys):
    search = {"configurations": 3, "lr_factor": [0.01, 3.0], **keys.pop("search", {})}
    values = {
        "tasks": ["emphysema_extent"],
        "initialisations": ["scratch"],
        "fractions": [0.1, 1.0],
        "seeds": 1,
        "scratch": {"max_steps": 6, "locations": 1, "pool": 1, "subjects_per_batch": 4, "lr": 3e-3},
        "search": search,
        **keys,
    }
    return recipe(**values)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    workspace, cohort = build(tmp_path_factory.mktemp("search"))
    shared, _ = assemble(workspace, cohort, searching(), run=RUN)
    return workspace, cohort, shared


FULL, FEW = (Cell("emphysema_extent", "scratch", fraction, 0) for fraction in (1.0, 0.1))


def test_validation_subjects_are_training_subjects_of_the_cell(world):
    shared = world[2]
    problem = shared.problems["emphysema_extent"]
    inside, outside = validation_rows(shared, FULL)
    rows = label_subset(task_of("emphysema_extent"), problem.train, fraction=1.0, seed=0)
    assert sorted([*inside, *outside]) == rows.tolist()
    assert len(outside) == round(0.25 * len(rows))
    # Every quarter of the labels validates: stratified.
    values = problem.train.value_N
    assert abs(values[outside].mean() - values[inside].mean()) < 0.1


def task_of(name):
    from ctplatform.tasks import get_task

    return get_task(name)


def test_the_first_configuration_is_the_recipes_and_the_others_are_the_same_each_time(world):
    shared = world[2]
    found = configurations(shared, FULL)
    assert found[0] == {"lr": 3e-3, "weight_decay": shared.scratch.weight_decay}
    assert found == configurations(shared, FULL)
    assert found[1:] != configurations(shared, FEW)[1:]
    assert all(3e-5 <= values["lr"] <= 9e-3 for values in found)


@pytest.mark.parametrize(("steps", "expected"), [(100, (10, 30, 90, 100)), (6, (1, 3, 6)), (1, (1,))])
def test_rungs(world, steps, expected):
    assert rungs(steps, world[2].search) == expected


class FakeTrial:
    """What a scheduler looks at."""

    def __init__(self, cell, number):
        self.trial_id, self.config = f"{cell.name}-{number}", {"cell": vars(cell), "number": number}


def test_a_cell_is_never_stopped_for_another_cells_better_loss(world):
    """All losses of one cell are worse than all of the other: within each, still only the worse ones are stopped."""
    shared = world[2]
    scheduler = CellASHA(shared, shared.search)
    decisions = {}
    for cell, base in ((FULL, 0.0), (FEW, 100.0)):
        for number, loss in enumerate((0.1, 0.2, 0.3)):
            trial = FakeTrial(cell, number)
            scheduler.on_trial_add(None, trial)
            decisions[cell, number] = scheduler.on_trial_result(
                None, trial, {"steps": 1, "loss": base + loss}
            )
    assert [decisions[FULL, n] for n in range(3)] == [decisions[FEW, n] for n in range(3)]
    assert decisions[FEW, 0] == "CONTINUE"
    assert decisions[FEW, 2] == "STOP"


def test_the_lowest_loss_of_those_trained_longest_is_chosen(world):
    workspace, _, shared = world
    attempts = [
        Attempt(0, 1e-3, 1e-4, 6, 0.5, 2.0),
        Attempt(1, 1e-2, 1e-5, 6, 0.4, 2.0),
        Attempt(2, 1e-4, 1e-6, 1, 0.1, 1.0),  # stopped on its way
    ]
    commit(shared, FULL, attempts)
    chosen = read_chosen(shared, FULL)
    assert (chosen.lr, chosen.weight_decay, chosen.configurations, chosen.stopped) == (1e-2, 1e-5, 3, 1)
    assert chosen.seconds == 5.0
    # The trial that follows uses it and says so.
    trial = run_trial(shared, FULL)
    assert trial.details["lr"] == 1e-2
    workspace.delete("evaluation", RUN)


def test_where_nobody_can_validate_nothing_is_searched_and_it_is_said(world):
    shared = world[2]
    assert validation_rows(shared, FEW) is None
    assert missing_searches(shared, [FEW, FULL]) == [FULL]
    trial = run_trial(shared, FEW)
    assert "with 10% of the labels no hyper-parameters were searched" in trial.notes[-1]
    world[0].delete("evaluation", RUN)


def test_a_sweep_searches_commits_and_does_not_search_again(tmp_path, ray_local):
    """With real Tune, and Optuna where it is installed; what is finished stays."""
    workspace, cohort = build(tmp_path, subjects=30)
    publish(workspace, RUN)
    steps = []
    algorithm = "optuna" if find_spec("optuna") else "random"
    config = searching(
        initialisations=["scratch", "finetune"], fractions=[1.0], search={"algorithm": algorithm}
    )
    summary = sweep(workspace, cohort, config, run=RUN, on_progress=lambda *step: steps.append(step))
    assert (summary.trials, summary.executed) == (2, 2)
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


def test_optuna_gets_better_than_chance_in_one_cell(world):
    pytest.importorskip("optuna", reason="an extra: pip install 'drasclr[optuna]'")
    shared = world[2]

    def loss(values):
        return abs(np.log(values["lr"] / 3e-4))

    inner = optuna_search(shared, FULL)
    tried = []
    for number in range(40):
        values = inner.suggest(f"t{number}")
        tried.append(loss(values))
        inner.on_trial_complete(f"t{number}", {"loss": tried[-1]})
    assert tried[0] == pytest.approx(loss({"lr": 3e-3}))  # the recipe's first
    # Against a blind draw from the same range, uniform in the logarithm.
    blind = np.exp(np.random.default_rng(0).uniform(np.log(3e-5), np.log(9e-3), 1000))
    assert np.mean(tried[20:]) < 0.7 * np.mean([loss({"lr": lr}) for lr in blind])


def test_a_range_must_be_one():
    with pytest.raises(ConfigError, match="lr_factor: a range"):
        searching(search={"lr_factor": [2.0, 1.0]})
    with pytest.raises(ConfigError, match="set 0, or 2 and more"):
        searching(search={"configurations": 1})
