"""A run is named by what its result depends on, and trains on the training subjects only."""

from __future__ import annotations

import json

from ctplatform.config.loader import load_recipe
from ctplatform.dataset.splits import read_split
from ctplatform.storage.layout import METRICS_FILE, PRETRAIN
from ctplatform.storage.workspace import Workspace
from ctplatform.training.runs import ablation_runs, read_metrics, run_name, training_rows, training_scans
from tests.conftest import SMALL


def recipe_with(*overrides):
    return load_recipe("demo", [*SMALL, *overrides])


def test_training_never_sees_a_test_subject(workspace, small_recipe):
    split = read_split(workspace)
    seen = set(training_rows(workspace, small_recipe)["subject_id"])
    assert seen == set(split.train)
    assert not seen & set(split.test)


def test_the_runs_name_follows_what_matters(workspace, small_recipe):
    name = run_name(workspace, small_recipe)
    assert name == run_name(workspace, recipe_with("pretrain.num_workers=1"))
    assert name != run_name(workspace, recipe_with("pretrain.lr=0.5"))


def test_scans_of_one_subject_share_its_number(prepared, small_recipe):
    workspace, _ = prepared
    rows, scans = training_rows(workspace, small_recipe), training_scans(workspace, small_recipe)
    assert [scan.scan_id for scan in scans] == list(rows["scan_id"])
    numbers = {subject: number for number, subject in enumerate(sorted(set(rows["subject_id"])))}
    assert [scan.subject for scan in scans] == [numbers[subject] for subject in rows["subject_id"]]
    assert all(scan.footer for scan in scans)


def test_every_ablation_has_a_run_of_its_own_unless_the_recipe_names_one(prepared):
    workspace, _ = prepared
    recipe = recipe_with('sweep.ablations=["local", "none"]', 'sweep.runs={"none": "earlier"}')
    runs = ablation_runs(workspace, recipe)
    assert runs["none"] == "earlier"
    own = {run_name(workspace, recipe), runs["local"]}
    assert len(own) == 2
    assert runs["local"].startswith(recipe.name)


def test_logged_lines_are_read_in_order(tmp_path):
    workspace = Workspace(tmp_path)
    assert read_metrics(workspace, "run") == []
    lines = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.5}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    workspace.write_bytes(text.encode(), PRETRAIN, "run", METRICS_FILE)
    assert read_metrics(workspace, "run") == lines
