"""Trials as Ray Tune ends them: by a result, an error, or the loss of their process."""

import os
from types import SimpleNamespace

import pytest
from ray import tune

from ctplatform.evaluation.tuner import run_trials
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.evaluation_world import RUN, recipe


def trainable(config, context):
    if config["end"] == "lost":
        os._exit(1)
    if config["end"] == "error":
        raise ValueError("no such label")
    tune.report({"run": context.run, "end": config["end"]})


@pytest.fixture(scope="module")
def ended(tmp_path_factory, ray_local):
    """(trials that ended, by their names; the workspace)."""
    workspace = Workspace(tmp_path_factory.mktemp("tuner"))
    trials = run_trials(
        trainable,
        SimpleNamespace(workspace=workspace, run=RUN),
        recipe(),
        folder="tune",
        name_of=lambda config: f"a-name-{config['end']}",
        callback=tune.Callback(),
        param_space={"end": tune.grid_search(["well", "error", "lost"])},
    )
    return {trial.name: trial for trial in trials}, workspace


def test_each_has_its_name_and_what_it_reported(ended):
    trials, workspace = ended
    assert sorted(trials) == ["a-name-error", "a-name-lost", "a-name-well"]
    well = trials["a-name-well"]
    assert (well.metrics["run"], well.metrics["end"], well.error, well.lost) == (RUN, "well", None, False)
    assert len({trial.trial_id for trial in trials.values()}) == 3
    assert f"a-name-well-{well.trial_id}" in workspace.folders("evaluation", RUN, "tune")


def test_the_loss_of_a_process_is_no_error_of_the_trial(ended):
    trials, _ = ended
    assert "no such label" in str(trials["a-name-error"].error)
    assert not trials["a-name-error"].lost
    assert trials["a-name-lost"].error is not None
    assert trials["a-name-lost"].lost
