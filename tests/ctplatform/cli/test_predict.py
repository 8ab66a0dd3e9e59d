"""`drasclr predict` on files: read, prepared, encoded, predicted by a kept model that fits, refused by another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import drasclr
from ctplatform.cli.main import main
from ctplatform.dataset.atlas import read_atlas
from ctplatform.inference import embed_scan
from ctplatform.inference.kept_model import KeptModel
from ctplatform.storage import layout
from ctplatform.tasks.fitted_head import FittedHead
from drasclr import weights
from drasclr.encoder import FEATURES, Encoder

RUN = "run"


def keep(folder: Path, features: dict, kind: str = "regression") -> KeptModel:
    """A model as a sweep keeps it, of weights that stand for fitted ones."""
    rng = np.random.default_rng(0)
    head = FittedHead(kind, rng.normal(size=features["width"]), 0.5)
    card = {
        "task": {"name": "mine", "title": "Mine", "unit": "mm"},
        "features": features,
        "trained_on": {"subjects": 9},
        "selection": {"metric": "r2"},
        "calibration": {"half_width": 2.0},
        "scores": [{"metric": "r2", "value": 0.5, "low": 0.1, "high": 0.7, "n_test": 12}],
    }
    model = KeptModel(head, card)
    folder.mkdir(parents=True)
    for name, data in model.files().items():
        (folder / name).write_bytes(data)
    return model


@pytest.fixture(scope="module")
def kept(prepared, tmp_path_factory):
    """(a workspace's root with weights and models, the path of a scan, the model of the encoder's features)."""
    workspace, cohort = prepared
    root, atlas = tmp_path_factory.mktemp("models"), read_atlas(workspace)
    torch.manual_seed(0)
    card = {"atlas_hash": atlas.hash, "hu_window": [-1024, 240], "spacing_mm": 1.0}
    template = workspace.read_bytes(layout.ATLAS, layout.TEMPLATE_FILE)
    weights.save(root / "pretrain" / RUN, Encoder(1).eval(), card, atlas=atlas, template=template)
    content = (root / "pretrain" / RUN / "weights.safetensors").read_bytes()
    features = {
        "encoder": "drasclr",
        "run": RUN,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "atlas_hash": atlas.hash,
        "hu_window": [-1024.0, 240.0],
        "pooling": "mean",
        "width": FEATURES,
    }
    models = root / "evaluation" / RUN / "models"
    model = keep(models / "mine-drasclr", features)
    keep(models / "mine-density", {"encoder": "density", "run": RUN, "width": 3})
    keep(models / "mine-other", features | {"weights_sha256": "0" * 64, "hu_window": [-1000.0, 400.0]})
    return root, str(cohort["path"][0]), model


def test_a_file_is_predicted_as_its_vector(kept, tmp_path, capsys):
    root, scan, model = kept
    main(["predict", scan, "--model", str(root / "evaluation" / RUN / "models" / "mine-drasclr"), "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    encoder = drasclr.load(root / "pretrain" / RUN)
    expected = model.head.predict(embed_scan(scan, encoder).patient_P[None].astype(float))[0]
    assert row["prediction"] == pytest.approx(expected, rel=1e-5)
    assert (row["low"], row["high"]) == pytest.approx((row["prediction"] - 2, row["prediction"] + 2))
    assert row["state"] in ("accepted", "flagged")
    # Elsewhere, the weights are named.
    moved = tmp_path / "moved"
    (root / "evaluation" / RUN / "models" / "mine-density").rename(moved)
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit) as incomplete:
        main(
            ["predict", scan, str(tmp_path / "broken.nii.gz"), "--model", str(moved), "--workers", "1"]
            + ["--weights", str(root / "pretrain" / RUN), "-o", str(tmp_path / "out.csv"), "--json"]
        )
    assert incomplete.value.code == 3
    assert [row["state"] for row in json.loads(capsys.readouterr().out)][1] == "failed"
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["prediction"].notna().tolist() == [True, False]
    assert table["state"][1] == "failed"
    assert isinstance(table["reason"][1], str)
    with pytest.raises(SystemExit):
        main(["predict", scan, "--model", str(moved)])
    assert "Give the encoder's folder: --weights DIR" in capsys.readouterr().err


def test_other_weights_are_refused(kept, capsys):
    root, scan, _ = kept
    with pytest.raises(SystemExit):
        main(["predict", scan, "--model", str(root / "evaluation" / RUN / "models" / "mine-other")])
    error = capsys.readouterr().err
    assert "weights 000000000000, here" in error
    assert "HU window [-1000.0, 400.0], here [-1024.0, 240.0]" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no scan is given"),
        (["--workspace", "ws", "--weights", "w"], "belong to scans that are not embedded yet"),
    ],
)
def test_options_that_do_not_go_together_are_said(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--model", "m", *arguments])
    assert message in capsys.readouterr().err
