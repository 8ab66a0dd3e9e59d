"""Costs are those of the workspace, else the documented ones, and the documentation prints what the command prints."""

from __future__ import annotations

import re
import shlex

import pytest

from ctplatform.cli.main import main
from ctplatform.config.loader import load_recipe
from ctplatform.dataset import ledger
from ctplatform.pipeline.dry_run import plan
from ctplatform.storage.layout import PATCHES
from tests.conftest import ROOT
from tests.ctplatform.pipeline.quick_chain import QUICK


def test_an_estimate_takes_its_costs_from_the_workspace(finished, recipe):
    workspace, cohort = finished
    other = load_recipe("demo", (*QUICK, "prepare.sampling.interpolation=linear"))
    steps = {s.decision.stage: s.work for s in plan(workspace, cohort, other)}
    rows = ledger.read_ledger(workspace)
    assert steps["prepare"].amount == len(cohort)
    assert steps["prepare"].core_hours == pytest.approx(rows["cpu_seconds"].mean() * len(cohort) / 3600)
    assert "8 scans of this workspace" in steps["prepare"].basis
    written = sum(len(workspace.read_bytes(PATCHES, n)) for n in workspace.files(PATCHES))
    assert steps["prepare"].written_bytes == pytest.approx(written, rel=0.02)


def test_a_plan_of_steps_is_what_training_does(finished, recipe):
    """The estimate's number of steps is that of the feed."""
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.pipeline.estimate import size_of
    from ctplatform.pipeline.stages.pretrain import steps_in_all
    from ctplatform.training.feed import Feed
    from ctplatform.training.runs import training_scans

    workspace, cohort = finished
    feed = Feed(
        workspace,
        training_scans(workspace, recipe),
        read_atlas(workspace),
        scans_per_batch=recipe.pretrain.scans_per_batch,
        locations_per_batch=recipe.pretrain.locations_per_batch,
    )
    steps, epoch = steps_in_all(recipe, size_of(workspace, recipe, scans=len(cohort)))
    assert steps == recipe.pretrain.max_steps
    assert epoch == pytest.approx(feed.steps_per_epoch(), rel=0.35)


def test_the_sizing_guide_prints_what_the_command_prints(capsys):
    page = (ROOT / "docs" / "how-to" / "sizing.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ drasclr (estimate .*)$", page, re.M)
    blocks = re.findall(r"```text\n(.*?)\n```", page, re.S)
    assert len(commands) == len(blocks) == 2
    for command, block in zip(commands, blocks, strict=True):
        main(shlex.split(command))
        assert capsys.readouterr().out.rstrip() == block


def test_an_estimate_without_a_gpu_rate_says_what_to_measure(capsys):
    with pytest.raises(SystemExit):
        main(["estimate", "--scans", "100", "--gpus", "8", "--set", "pretrain.use_gpu=true"])
    assert "tests.benchmarks.gpu" in capsys.readouterr().err
