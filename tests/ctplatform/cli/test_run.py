"""The chain from the command line: dry runs write nothing, and a bad table is reported before Ray starts."""

from __future__ import annotations

import contextlib

import pytest

from ctplatform.cli import run
from ctplatform.cli.run import ChainOptions, run_cohort, run_demo
from ctplatform.config.loader import load_recipe
from ctplatform.errors import PreflightError, StageError
from ctplatform.pipeline.graph import STAGES


@pytest.fixture
def no_ray(monkeypatch):
    """Fails where a Ray session is begun; other tests of this process may have left one open."""
    monkeypatch.setattr(run, "ray_session", lambda config: pytest.fail("a Ray session was begun"))


@pytest.mark.usefixtures("no_ray")
def test_a_dry_run_of_the_demo_writes_nothing(tmp_path, capsys):
    recipe = load_recipe("demo", ["phantom.subjects=7"])
    assert run_demo(str(tmp_path / "ws"), recipe, ChainOptions(dry_run=True)) is None
    text = capsys.readouterr().out
    assert all(stage in text for stage in STAGES)
    assert "7 scans" in text
    assert not (tmp_path / "ws").exists()


def test_a_part_of_the_chain_is_planned_alone(tmp_path, capsys):
    options = ChainOptions(first="split", last="embed", dry_run=True)
    with pytest.raises(PreflightError, match="needs ledger"):
        run_cohort(str(tmp_path / "ws"), None, load_recipe("demo"), options)
    lines = capsys.readouterr().out.splitlines()
    named = [stage for stage in STAGES if any(line.split()[:1] == [stage] for line in lines)]
    assert named == ["split", "pretrain", "embed"]


def test_an_unexpected_error_is_one_message_without_paths(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyError("/data/DOE JANE/ct.nii.gz")

    monkeypatch.setattr(run, "run_chain", fail)
    monkeypatch.setattr(run, "ray_session", lambda config: contextlib.nullcontext())
    monkeypatch.setattr(run, "_fitted", lambda recipe, *_: recipe)
    table = tmp_path / "cohort.csv"
    (tmp_path / "a.nii.gz").touch()
    table.write_text("scan_id,path\na,a.nii.gz\n")
    with pytest.raises(StageError, match="an unexpected KeyError") as caught:
        run_cohort(str(tmp_path / "ws"), str(table), load_recipe("fast"))
    assert "DOE" not in str(caught.value)


@pytest.mark.usefixtures("no_ray")
def test_a_missing_table_is_an_error_before_ray_starts(tmp_path):
    with pytest.raises(PreflightError, match=r"none\.csv"):
        run_cohort(str(tmp_path / "ws"), str(tmp_path / "none.csv"), load_recipe("demo"))
    assert not (tmp_path / "ws").exists()
