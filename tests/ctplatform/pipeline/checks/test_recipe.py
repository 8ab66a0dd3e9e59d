"""Names in values and optional packages: of the stages that will run, and no others."""

from __future__ import annotations

import importlib.util

import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.checks.recipe import recipe_findings
from ctplatform.pipeline.graph import STAGES


def found(*overrides: str, stages=STAGES) -> dict[str, str]:
    return {
        f.where: f"{f.problem}; {f.remedy}" for f in recipe_findings(load_recipe("fast", overrides), stages)
    }


def test_the_recipes_of_the_platform_have_no_findings():
    assert found() == {}


def test_unknown_names_are_found_with_the_nearest_known_one():
    wrong = found(
        "sweep.tasks=[gold_stge]",
        "pretrain.probe.task=emphysem",
        "sweep.columns={fev1: FEV1, emphysema_extnt: x}",
        "sweep.classes={lobess: {a: 1}}",
    )
    assert "Did you mean 'gold_stage'?" in wrong["sweep.tasks"]
    assert "Did you mean 'emphysema'?" in wrong["pretrain.probe.task"]
    assert "Did you mean 'lobes'?" in wrong["sweep.classes"]
    assert "'emphysema_extent'" in wrong["sweep.columns"]
    assert "nodules has label maps" in found("pretrain.probe.task=nodules")["pretrain.probe.task"]
    assert found("sweep.tasks=[gold_stge]", stages=("atlas", "prepare")) == {}


@pytest.mark.parametrize(
    ("package", "overrides"),
    [
        ("lungmask", ["prepare.lungs.segmenter=lungmask"]),
        ("totalsegmentator", ["prepare.lungs.segmenter=totalsegmentator"]),
        ("mlflow", ["watch.mlflow=http://127.0.0.1:5000"]),
        ("optuna", ["sweep.search.algorithm=optuna", "sweep.search.configurations=3"]),
    ],
)
def test_missing_packages_are_found_with_the_line_that_installs_them(package, overrides, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else there(name))
    (line,) = found(*overrides).values()
    assert f"{package} is not installed" in line
    assert f"pip install 'drasclr[{package}]'" in line


def test_weights_that_are_not_there_are_found(tmp_path):
    wrong = found("prepare.lungs.segmenter=lungmask", f"prepare.lungs.weights={tmp_path / 'none.pth'}")
    assert "none.pth" in wrong["prepare.lungs.weights"]
