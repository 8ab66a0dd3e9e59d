"""`drasclr view`: the page, JSON, and what is refused."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from ctplatform.cli.main import main


def test_page_of_a_scan(trained, tmp_path, capsys):
    workspace, run, cohort = trained
    path = next(str(path) for path in cohort["path"] if str(path).endswith(".nii.gz"))
    page, mask = tmp_path / "new" / "scan.html", tmp_path / "other" / "lungs.nii.gz"
    weights = workspace.path("pretrain", run)
    main(
        [
            "view",
            path,
            "--weights",
            weights,
            "--spacing",
            "6",
            "-o",
            str(page),
            "--json",
            "--viewer",
            "slices",
            "--mask",
            str(mask),
        ]
    )
    made = json.loads(capsys.readouterr().out)
    assert (made["page"], made["viewer"]) == (str(page), "slices")
    assert made["locations"] == len(workspace.read_json("atlas", "atlas.json")["corners_N3"])
    assert "voxels-mask" in page.read_text(encoding="utf-8")
    scan, lungs = nib.load(path), nib.load(mask)
    np.testing.assert_allclose(lungs.affine, scan.affine, atol=1e-4)
    values_XYZ = np.asarray(lungs.dataobj)
    assert values_XYZ.shape == scan.shape
    assert set(np.unique(values_XYZ)) == {0, 50, 100}
    hu_XYZ = np.asarray(scan.dataobj)
    assert np.median(hu_XYZ[values_XYZ > 0]) < -600 < 0 < np.median(hu_XYZ[hu_XYZ > -600])


def test_niivue_is_the_viewer_where_it_is_installed(prepared, tmp_path, capsys, monkeypatch):
    from ctplatform.report.niivue import NiiVue

    _, cohort = prepared
    path = next(str(path) for path in cohort["path"] if str(path).endswith(".nii.gz"))
    page = tmp_path / "scan.html"
    found = NiiVue("window.niivue = {};", "1", "BSD-2-Clause")
    monkeypatch.setattr("ctplatform.report.niivue.installed", lambda: found)
    main(["view", path, "--spacing", "8", "-o", str(page), "--json"])
    assert json.loads(capsys.readouterr().out)["viewer"] == "niivue"
    assert "volume-mask" in page.read_text(encoding="utf-8")
    monkeypatch.setattr("ctplatform.report.niivue.installed", lambda: None)
    with pytest.raises(SystemExit):
        main(["view", path, "-o", str(page), "--viewer", "niivue"])
    assert "NiiVue is not installed" in capsys.readouterr().err


def test_an_output_that_is_no_page_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["view", "scan.nii.gz", "-o", "scan.png"])
    assert ".html" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["view", "scan.nii.gz", "--mask", "lungs.mha"])
    assert ".nii.gz" in capsys.readouterr().err
