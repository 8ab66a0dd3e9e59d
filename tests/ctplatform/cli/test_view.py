"""`drasclr view`: the page, JSON, and what is refused."""

from __future__ import annotations

import json

import pytest

from ctplatform.cli.main import main


def test_page_of_a_scan(trained, tmp_path, capsys):
    workspace, run, cohort = trained
    path = next(str(path) for path in cohort["path"] if str(path).endswith(".nii.gz"))
    page = tmp_path / "new" / "scan.html"
    weights = workspace.path("pretrain", run)
    main(["view", path, "--weights", weights, "--spacing", "6", "-o", str(page), "--json"])
    made = json.loads(capsys.readouterr().out)
    assert made["page"] == str(page)
    assert made["locations"] == len(workspace.read_json("atlas", "atlas.json")["corners_N3"])
    assert "voxels-mask" in page.read_text(encoding="utf-8")


def test_an_output_that_is_no_page_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["view", "scan.nii.gz", "-o", "scan.png"])
    assert ".html" in capsys.readouterr().err
