"""`drasclr predict` with a model of label maps: files in the scans' own grids, rows with what they hold."""

from __future__ import annotations

import hashlib
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

from ctplatform.cli.main import main
from ctplatform.dataset.atlas import read_atlas
from ctplatform.inference.model_folder import LABEL_MAP, model_files
from ctplatform.storage import layout
from drasclr import weights
from drasclr.encoder import Encoder

CLASSES = {"outer": 1, "inner": 4}


@pytest.fixture(scope="module")
def kept(prepared, tmp_path_factory):
    """(model folder, a NIfTI scan, a DICOM series): a region is inner where lung fills 60% of it."""
    workspace, cohort = prepared
    root, atlas = tmp_path_factory.mktemp("label_maps"), read_atlas(workspace)
    torch.manual_seed(0)
    card = {"atlas_hash": atlas.hash, "hu_window": [-1024, 240], "spacing_mm": 1.0}
    template = workspace.read_bytes(layout.ATLAS, layout.TEMPLATE_FILE)
    weights.save(root / "pretrain" / "run", Encoder(1).eval(), card, atlas=atlas, template=template)
    content = (root / "pretrain" / "run" / "weights.safetensors").read_bytes()
    features = {
        "encoder": "density",
        "run": "run",
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "atlas_hash": atlas.hash,
        "hu_window": [-1024.0, 240.0],
        "width": 4,
        "stride": 16,
    }
    for name, changed in {"inner-density": {}, "inner-other": {"hu_window": [-1000.0, 400.0]}}.items():
        model = {
            "task": {
                "name": "inner",
                "title": "Inner lung",
                "unit": "",
                "kind": "regions",
                "classes": CLASSES,
            },
            "features": features | changed,
            "trained_on": {"subjects": 9},
            "selection": {"metric": "dice"},
            "scores": [{"metric": "dice_mean", "value": 0.5, "low": 0.1, "high": 0.7, "n_test": 12}],
        }
        tensors = {"weights_CP": np.array([[0.0, 0, 0, 0], [0, 0, 0, 1.0]]), "bias_C": np.array([0.0, -0.6])}
        folder = root / "evaluation" / "run" / "models" / name
        folder.mkdir(parents=True)
        for file, data in model_files(LABEL_MAP, model, tensors).items():
            (folder / file).write_bytes(data)
    paths = [str(path) for path in cohort["path"]]
    nifti = next(path for path in paths if path.endswith(".nii.gz"))
    series = next(path for path in paths if not path.endswith(".nii.gz"))
    return root / "evaluation" / "run" / "models", nifti, series


def test_maps_are_written_in_the_scans_own_grids(kept, tmp_path, capsys):
    models, nifti, series = kept
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit) as incomplete:
        main(
            ["predict", nifti, series, str(tmp_path / "broken.nii.gz"), "--model"]
            + [
                str(models / "inner-density"),
                "--maps",
                str(tmp_path / "maps"),
                "-o",
                str(tmp_path / "out.csv"),
            ]
        )
    assert incomplete.value.code == 3
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["state"].tolist()[2] == "failed"
    assert table["label_map"].notna().tolist() == [True, True, False]
    assert table["segmentation"].notna().tolist() == [False, True, False]
    scan, found = nib.load(nifti), nib.load(table["label_map"][0])
    assert found.shape == scan.shape
    np.testing.assert_array_equal(found.affine, scan.affine)
    labels, hu = np.asarray(found.dataobj), np.asarray(scan.dataobj)
    assert set(np.unique(labels)) == {0, 1, 4}
    assert hu[labels > 0].mean() < -600 < hu[labels == 0].mean() + 600
    share = 100 * (labels == 4).sum() / (labels > 0).sum()
    assert table["percent_inner"][0] == pytest.approx(share, abs=2)
    assert table[["percent_outer", "percent_inner"]].sum(axis=1)[0] == pytest.approx(100)
    segmentation = pydicom.dcmread(table["segmentation"][1])
    assert segmentation.Modality == "SEG"
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    capsys.readouterr()
    arguments = ["--maps", str(tmp_path / "alone"), "--no-seg", "--json"]
    main(["predict", series, "--model", str(models / "inner-density"), *arguments])
    (row,) = json.loads(capsys.readouterr().out)
    assert "segmentation" not in row
    assert [file.suffix for file in (tmp_path / "alone").iterdir()] == [".gz"]


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("inner-other", [], r"HU window [-1000.0, 400.0], here [-1024.0, 240.0]"),
        ("inner-density", ["--workers", "2"], "one after the other"),
        ("inner-density", ["--workspace", "ws"], "makes label maps, which need the voxels"),
    ],
)
def test_what_does_not_fit_is_refused(kept, tmp_path, capsys, model, arguments, message):
    models, nifti, _ = kept
    with pytest.raises(SystemExit):
        main(["predict", nifti, "--model", str(models / model), "--maps", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
