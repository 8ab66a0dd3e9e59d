"""Notebooks of the documentation run from the first cell to the last, offline, and are kept without results."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["one-scan.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_results_are_not_kept(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_from_a_scan_to_an_embedding_and_a_plot(tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    for name in ("SCAN", "WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    notebook = json.loads((ROOT / "docs" / "notebooks" / "one-scan.ipynb").read_text(encoding="utf-8"))
    scope: dict = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), scope)
    result, atlas = scope["result"], scope["model"].atlas
    assert result.verdict.state == "accepted"
    assert result.patches_NP.shape == (atlas.num_locations, 128)
    assert np.isfinite(result.patient_P).all()
    assert np.ptp(scope["component_N"]) > 0
    assert Path("notebook-files/embedding.png").read_bytes().startswith(b"\x89PNG")
