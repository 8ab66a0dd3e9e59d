"""Each stage's script runs from an uninstalled source tree, from any folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SCRIPTS = sorted(path.name for path in JOBS.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, tmp_path):
    command = [sys.executable, str(JOBS / script), "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert "--recipe" in done.stdout or "--address" in done.stdout


def test_there_is_one_a_stage():
    stages = {"atlas", "prepare", "pretrain", "embed", "sweep", "report", "pipeline", "submit"}
    assert {name.removesuffix(".py") for name in SCRIPTS} == stages
