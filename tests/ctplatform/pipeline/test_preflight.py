"""Everything at once, before anything starts; and a dry run says what the run does."""

from __future__ import annotations

import json

import pandas as pd

from ctplatform.cli.run import ChainOptions, run_demo
from ctplatform.config.loader import load_recipe
from ctplatform.phantom.cohort import made_cohort
from ctplatform.pipeline.preflight import preflight
from ctplatform.pipeline.state import WorkspaceState, labels_digest, scans_digest
from ctplatform.storage.workspace import Workspace


def test_all_problems_are_found_at_once(tmp_path):
    (tmp_path / "file").touch()
    cohort = pd.DataFrame(
        {
            "scan_id": ["a", "b"],
            "subject_id": ["1", "2"],
            "path": ["/no/a.nii", "/no/b.nii"],
            "series_uid": "",
        }
    )
    recipe = load_recipe(
        "fast",
        [
            f"atlas.source={tmp_path / 'nope'}",
            "sweep.tasks=[gold]",
            "pretrain.num_workers=60000",
            "prepare.lungs.weights=/no/weights",
            "prepare.lungs.segmenter=lungmask",
        ],
    )
    checked = preflight(Workspace(tmp_path / "file"), cohort, recipe)
    wrong = {finding.where for finding in checked.findings if finding.level == "error"}
    assert {"--workspace", "--atlas", "sweep.tasks", "pretrain", "path", "prepare.lungs.weights"} <= wrong
    assert not json.loads(json.dumps(checked.plain()))["ok"]


def test_a_finished_workspace_needs_nothing(finished, recipe):
    workspace, cohort = finished
    checked = preflight(workspace, cohort, recipe)
    assert checked.stages == []
    assert checked.plain()["ok"]
    assert {stage["action"] for stage in checked.plain()["stages"]} == {"skip"}
    again = preflight(workspace, cohort, recipe, redo=("report",))
    assert again.stages == ["report"]


def test_a_dry_run_of_the_demo_sees_the_cohort_that_the_run_sees(prepared, small_recipe):
    """Read from the table, numbers and empty cells would differ: `scans changed, labels changed`."""
    workspace, cohort = prepared
    made = made_cohort(workspace, small_recipe.phantom)
    run, dry = (WorkspaceState(workspace, table, small_recipe) for table in (cohort, made))
    assert scans_digest(run) == scans_digest(dry) != ""
    assert labels_digest(run) == labels_digest(dry) != ""
    more = load_recipe("demo", ["phantom.subjects=9"])
    assert made_cohort(workspace, more.phantom) is None


def test_a_dry_run_as_json(tmp_path, capsys):
    options = ChainOptions(dry_run=True, as_json=True)
    assert run_demo(str(tmp_path / "ws"), load_recipe("demo", ["pretrain.num_workers=1"]), options) is None
    printed = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in printed["stages"]][:2] == ["atlas", "prepare"]
    assert not (tmp_path / "ws").exists()
