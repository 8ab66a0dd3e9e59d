"""`drasclr doctor`: what is missing is a finding with what to do about it, and nothing is left behind."""

from __future__ import annotations

import json
import tomllib
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from ctplatform.cli import doctor
from ctplatform.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
NOT_OPTIONAL_PARTS = {"test", "lint", "bench", "docs", "dev"}


def states(findings: list[doctor.Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def test_every_optional_part_of_the_package_is_checked():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert (
        set(doctor.EXTRAS)
        == set(tomllib.loads(text)["project"]["optional-dependencies"]) - NOT_OPTIONAL_PARTS
    )


def test_a_workspace_is_tried_and_left_as_it_was(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    found = states(doctor.examine(workspace=str(tmp_path / "there")))
    assert found["workspace"] == doctor.OK
    assert list((tmp_path / "there").iterdir()) == []
    assert states(doctor.examine(workspace=str(tmp_path / "new")))["workspace"] == doctor.OK
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", "--workspace", str(tmp_path / "file"), "--json"])
    assert exit_.value.code == 1
    result = json.loads(capsys.readouterr().out)
    (check,) = [check for check in result["checks"] if check["check"] == "workspace"]
    assert check["state"] == "problem"
    assert result["problems"] >= 1


def test_too_little_of_anything_is_a_problem_with_a_remedy(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(10**9, 10**9, 0))
    monkeypatch.setattr(doctor, "MIN_MEMORY_GB", 10.0**6)
    findings = {finding.check: finding for finding in doctor.examine()}
    for check in ("disk for Ray", "disk here", "memory"):
        assert findings[check].state == doctor.PROBLEM
        assert findings[check].remedy
    text = "\n".join(doctor.lines(list(findings.values())))
    assert "RAY_TMPDIR" in text
    assert "problem(s)" in text.splitlines()[-1]


def test_packages_out_of_bounds_are_named(monkeypatch):
    bounds = ["numpy>=999", "no-such-package-here>=1", "pandas>=1", "optional>=1; extra == 'x'"]
    monkeypatch.setattr(metadata, "requires", lambda name: bounds)
    problem, fine = doctor._packages()
    assert problem.state == doctor.PROBLEM
    assert "numpy" in problem.found
    assert "no-such-package-here is not installed" in problem.found
    assert "optional" not in problem.found
    assert fine.found.startswith("pandas ")


def test_an_absent_part_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "nothing", ("no_such_module_here", "a part that is not there"))
    (finding,) = [finding for finding in doctor._extras() if "nothing" in finding.check]
    assert finding.state == doctor.NOTE
    assert finding.remedy == "pip install 'drasclr[nothing]'"


def test_a_cluster_that_cannot_be_reached_is_a_problem(monkeypatch):
    def unreachable(address: str) -> doctor.Finding:
        raise ConnectionError("no cluster at that address\ndetails")

    monkeypatch.setattr(doctor, "_cluster", unreachable)
    found = {finding.check: finding for finding in doctor.examine(address="10.0.0.1:6379")}["Ray cluster"]
    assert (found.state, found.found) == (doctor.PROBLEM, "no cluster at that address")
