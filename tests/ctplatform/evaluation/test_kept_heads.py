"""Heads that are kept after a sweep, and what they predict."""

import json

import numpy as np
import pandas as pd
import pytest

from ctplatform.cli.main import main
from ctplatform.errors import StageError
from ctplatform.evaluation.kept_heads import calibration, fit
from ctplatform.evaluation.sweep import sweep
from ctplatform.inference.kept_model import read_model
from ctplatform.inference.predict import predict_workspace
from ctplatform.metrics.scores import Targets
from ctplatform.tasks.registry import get_task
from tests.ctplatform.evaluation_world import RUN, build, publish, recipe, table

TASKS = ["emphysema_extent", "survival", "disease"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory, ray_local):
    """A sweep of three tasks, one of them the recipe's own, with its models."""
    workspace, cohort = build(tmp_path_factory.mktemp("kept"), with_shards=False)
    publish(workspace, RUN)
    settings = recipe(tasks=TASKS, initialisations=["drasclr", "density", "random"], fractions=[1.0], seeds=1)
    own = {"disease": {"kind": "binary", "column": "gold_stage", "at_least": 2, "title": "GOLD 2 or more"}}
    settings = settings.model_validate(settings.model_dump() | {"tasks": own})
    summary = sweep(workspace, cohort, settings, run=RUN)
    return workspace, cohort, settings, summary


def folder(workspace, name: str) -> str:
    return workspace.path("evaluation", RUN, "models", name)


def test_every_head_whose_features_can_be_made_again_is_kept(kept):
    workspace, cohort, settings, _ = kept
    assert set(workspace.folders("evaluation", RUN, "models")) == {
        f"{task}-{name}" for task in TASKS for name in ("drasclr", "density")
    }
    before = {
        name: (workspace.read_bytes("evaluation", RUN, "models", name, "card.json"))
        for name in workspace.folders("evaluation", RUN, "models")
    }
    path = workspace.path("evaluation", RUN, "models", "disease-drasclr", "card.json")
    changed = workspace.fs.get_file_info(path).mtime_ns
    assert sweep(workspace, cohort, settings, run=RUN).executed == 0
    assert workspace.fs.get_file_info(path).mtime_ns == changed
    assert len(before) == 6


def test_the_best_is_chosen_on_training_subjects_and_scored_on_others(kept):
    workspace, *_ = kept
    cards = {i: read_model(folder(workspace, f"emphysema_extent-{i}")).card for i in ("drasclr", "density")}
    assert [cards[i]["selection"]["best"] for i in cards] == [True, False]
    assert cards["drasclr"]["selection"]["value"] > cards["density"]["selection"]["value"]
    assert cards["drasclr"]["selection"]["subjects"] == cards["drasclr"]["trained_on"]["subjects"] == 24
    rows = table(workspace, "summary").set_index(["task", "initialisation", "metric"])
    for score in cards["drasclr"]["scores"]:
        row = rows.loc["emphysema_extent", "drasclr", score["metric"]]
        assert (score["value"], score["low"], score["n_test"]) == (row["value"], row["low"], 16)
    assert "sub0" not in json.dumps(cards["drasclr"])


def test_predictions_of_held_out_subjects_are_the_sweeps(kept):
    workspace, *_ = kept
    trials = table(workspace, "predictions")
    for task, name in [("emphysema_extent", "drasclr"), ("disease", "drasclr"), ("survival", "density")]:
        found = predict_workspace(workspace, read_model(folder(workspace, f"{task}-{name}")))
        assert len(found) == 41  # scans
        rows = trials[(trials["task"] == task) & (trials["initialisation"] == name)].set_index("scan_id")
        mine = found.set_index("scan_id").loc[rows.index]
        assert set(mine["split"]) == {"test"}
        single = mine["subject_id"] != "sub000"  # its trial is of the mean of two scans
        np.testing.assert_allclose(
            mine["prediction"][single], rows["prediction"][single], rtol=1e-6, atol=1e-9
        )


def test_intervals_and_curves(kept):
    workspace, cohort, *_ = kept
    extent = predict_workspace(workspace, read_model(folder(workspace, "emphysema_extent-drasclr")))
    truth = cohort.set_index("scan_id")["emphysema_extent"].loc[extent["scan_id"]].to_numpy()
    held_out = (extent["split"] == "test").to_numpy()
    inside = (extent["low"] <= truth) & (truth <= extent["high"])
    assert inside[held_out].mean() > 0.6
    assert ((extent["low"] >= 0) & (extent["high"] <= 1)).all()
    disease = predict_workspace(workspace, read_model(folder(workspace, "disease-drasclr")))
    assert disease["prediction"].between(0, 1).all()
    assert (disease["low"] <= disease["high"]).all()
    survival = predict_workspace(workspace, read_model(folder(workspace, "survival-drasclr")))
    curve = survival[["survival_365.25", "survival_730.5", "survival_1095.75"]].to_numpy()
    assert (np.diff(curve, axis=1) <= 0).all()
    assert survival["risk"].rank().equals(survival["survival_365.25"].rank(ascending=False))


def test_the_command_writes_what_it_predicts(kept, tmp_path, capsys):
    workspace, *_ = kept
    where = ["--model", folder(workspace, "survival-drasclr"), "--workspace", workspace.uri]
    main(["predict", "scan003", "scan007", *where, "-o", str(tmp_path / "out.csv")])
    assert "2 scans" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "out.csv")["scan_id"]) == ["scan003", "scan007"]
    main(["predict", "scan003", *where, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["risk"] > 0
    main(["predict", "scan003", *where])
    assert "Survival, days; trained on 24 subjects" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["predict", "scan999", *where])
    assert "1 scan(s) have no vector: scan999" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", *where, "-o", "out.xlsx"])


def test_other_weights_and_another_atlas_are_refused(kept, tmp_path):
    workspace, *_ = kept
    model = read_model(folder(workspace, "emphysema_extent-drasclr"))
    other, _ = build(tmp_path / "other", subjects=12, with_shards=False)
    publish(other, RUN, seed=1)
    with pytest.raises(StageError, match="no run of this workspace has the weights"):
        predict_workspace(other, model)
    publish(other, RUN)
    assert len(predict_workspace(other, model)) == 13
    atlas = other.read_json("atlas", "atlas.json")
    other.write_json(atlas | {"patch_size": 31}, "atlas", "atlas.json")
    with pytest.raises(StageError, match="does not fit"):
        predict_workspace(other, model)


def test_no_calibration_where_folds_cannot_be_fitted():
    task = get_task("survival")
    few = Targets(np.arange(1.0, 8.0), np.array([1, 1, 0, 0, 0, 0, 0], bool))
    assert fit(task, np.random.default_rng(0).normal(size=(7, 2)), few).out_of_fold_N is None
    extent = get_task("emphysema_extent")
    assert calibration(extent, Targets(np.arange(5.0)), np.zeros(5)) is None  # 90% of 5 labels says nothing
    nine = calibration(extent, Targets(np.arange(9.0)), np.zeros(9))
    assert nine["half_width"] == 8.0
