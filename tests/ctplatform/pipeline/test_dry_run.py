"""A plan: what would run, why, and what depends on it."""

from __future__ import annotations

import pandas as pd
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.dry_run import lines, plan
from ctplatform.pipeline.graph import STAGES
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.pipeline.quick_chain import QUICK, actions


@pytest.mark.parametrize(
    ("override", "stage", "others"),
    [
        (
            "prepare.sampling.interpolation=linear",
            "prepare",
            ("split", "pretrain", "embed", "sweep", "report"),
        ),
        ("embed.pooling=mean_std", "embed", ("sweep", "report")),
        ("sweep.bootstrap=300", "sweep", ("report",)),
        ("report.title=Other", "report", ()),
    ],
)
def test_a_changed_setting_runs_its_stage_and_what_reads_it(finished, recipe, override, stage, others):
    workspace, cohort = finished
    found = actions(workspace, cohort, load_recipe("demo", (*QUICK, override)))
    assert found[stage][0] == "run"
    assert override.split("=")[0] in found[stage][1]
    for name in STAGES:
        expected = "run" if name == stage else "after" if name in others else "skip"
        assert found[name][0] == expected, (name, found[name])


def test_hardware_is_no_setting(finished):
    workspace, cohort = finished
    more = (
        "prepare.num_cpus=2",
        "pretrain.num_workers=4",
        "pretrain.checkpoint_every=7",
        "embed.num_workers=1",
        "sweep.max_concurrent=1",
    )
    found = actions(workspace, cohort, load_recipe("demo", (*QUICK, *more)))
    assert {action for action, _ in found.values()} == {"skip"}


def test_other_pretraining_is_another_run_with_stages_of_its_own(finished):
    workspace, cohort = finished
    found = actions(workspace, cohort, load_recipe("demo", (*QUICK, "pretrain.lr=0.004")))
    assert [found[name][0] for name in ("atlas", "prepare", "split")] == ["skip"] * 3
    assert found["pretrain"] == ("run", "it has not run in this workspace")
    assert found["embed"][0] in ("after", "wait")


def test_a_dry_run_of_nothing_yet_writes_nothing(tmp_path):
    recipe = load_recipe("demo", QUICK)
    workspace = Workspace(tmp_path / "ws")
    empty = pd.DataFrame(columns=["scan_id", "subject_id", "path"])
    steps = plan(workspace, empty, recipe, scans=60)
    assert [s.decision.action for s in steps][:2] == ["run", "after"]
    assert steps[1].work.amount == 60
    assert not (tmp_path / "ws").exists()
    text = "\n".join(lines(steps))
    assert "60 scans" in text
    assert "docs/benchmarks" in text
