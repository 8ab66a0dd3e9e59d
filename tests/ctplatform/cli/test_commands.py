"""Commands beside the chain, as JSON."""

from __future__ import annotations

import json

import pytest
import SimpleITK as sitk

from ctplatform.cli.main import main
from tests.ctplatform.scans import chest


def test_json_is_all_that_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(chest(), "a.nii.gz")
    (tmp_path / "notes.txt").write_text("x")
    main(["cohort", ".", "-o", "out/cohort.csv", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["output"], found["scans"], found["subjects"]) == ("out/cohort.csv", 1, 1)
    assert "notes.txt" in found["passed_over"][0]
    assert found["notes"] == []
    main(["run", "--cohort", "out/cohort.csv", "--workspace", "ws", "--dry-run", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in plan["stages"]][:2] == ["atlas", "prepare"]
    assert (plan["stages"][1]["work"], plan["stages"][1]["unit"]) == (1, "scans")
    assert plan["public_data"] == []
    main(["estimate", "--scans", "100", "--cores", "2", "--core-price", "3", "--json"])
    bill = json.loads(capsys.readouterr().out)
    hours = sum(stage["core_hours"] for stage in bill["stages"])
    assert bill["total"]["core_hours"] == pytest.approx(hours)
    assert bill["total"]["price"] == pytest.approx(3 * hours)
    assert bill["total"]["wall_hours"] == pytest.approx(hours / 2)
