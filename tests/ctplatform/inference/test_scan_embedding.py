"""One scan from given weights: the chain's verdict, affine and vectors, without a workspace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import drasclr
from ctplatform.dataset.ledger import read_ledger
from ctplatform.errors import ScanError, StageError
from ctplatform.inference.embed import embed
from ctplatform.inference.scan_embedding import ScanEmbedder, embed_scan, preparation_of
from ctplatform.storage.workspace import Workspace

ROOT = Path(__file__).resolve().parents[3]


def test_one_scan_equals_what_the_chain_writes(trained, model, small_recipe):
    workspace, run, cohort = trained
    embed(workspace, small_recipe, run=run)
    patients = workspace.read_table("embeddings", run, "patients-drasclr.parquet").to_pandas()
    files = [name for name in workspace.files("embeddings", run, "patches") if name.startswith("drasclr-")]
    patches = pd.concat(
        workspace.read_table("embeddings", run, "patches", name).to_pandas() for name in files
    )
    rows = read_ledger(workspace).set_index("scan_id")
    for scan in cohort.to_dict("records")[2:5]:  # a volume file and a DICOM series among them
        found = embed_scan(scan["path"], model, series_uid=scan["series_uid"] or "")
        row = rows.loc[scan["scan_id"]]
        assert found.verdict.state == row["state"]
        assert found.fields["content_hash"] == row["content_hash"]
        assert found.fields["measures"] == row["measures"]
        np.testing.assert_array_equal(found.affine.ravel(), row["affine"])
        vector = patients.set_index("scan_id").loc[scan["scan_id"], "vector"]
        np.testing.assert_allclose(found.patient_P, vector, rtol=0, atol=1e-6)
        written = patches[patches["scan_id"] == scan["scan_id"]].sort_values("location")
        theirs_NP = np.stack(written["vector"])
        # The chain encodes several scans at a time, in sums of another order: rounding in single precision.
        norm_N = np.linalg.norm(theirs_NP, axis=1)
        assert (np.linalg.norm(found.patches_NP - theirs_NP, axis=1) <= 1e-6 * norm_N).all()
        np.testing.assert_array_equal(found.inside_N, written["inside"])


def test_a_standardised_vector_equals_what_the_chain_writes(trained, small_recipe, tmp_path):
    """The statistics lie beside the weights; without them the pooling is refused."""
    source, run, cohort = trained
    (tmp_path / "ws" / "pretrain").mkdir(parents=True)
    for name in ("atlas", "scans", "patches", "splits.json"):
        (tmp_path / "ws" / name).symlink_to(source.path(name))
    shutil.copytree(source.path("pretrain", run), tmp_path / "ws" / "pretrain" / run)
    workspace = Workspace(tmp_path / "ws")
    # One scan at a time, as `embed_scan` does: differences of rounding would be divided by spreads near zero.
    settings = {"pooling": "standardised_gradient", "encoders": ("drasclr",), "scans_per_batch": 1}
    embedded = small_recipe.embed.model_copy(update=settings)
    folder = workspace.path("pretrain", run)
    with pytest.raises(StageError, match=r"has no representation\.safetensors"):
        embed_scan(cohort["path"][2], drasclr.load(folder), pooling="standardised")
    embed(workspace, small_recipe.model_copy(update={"embed": embedded}), run=run)
    patients = workspace.read_table("embeddings", run, "patients-drasclr.parquet").to_pandas()
    patients = patients.set_index("scan_id")
    model = drasclr.load(folder)
    for scan in cohort.to_dict("records")[2:4]:
        vector = patients.loc[scan["scan_id"], "vector"]
        for pooling, width in (("standardised_gradient", 384), ("standardised_spread", 256)):
            found = embed_scan(scan["path"], model, series_uid=scan["series_uid"] or "", pooling=pooling)
            np.testing.assert_allclose(found.patient_P, vector[:width], rtol=0, atol=1e-6)
    with pytest.raises(StageError, match="statistics of these weights are of features 'last'"):
        ScanEmbedder(model, pooling="standardised", features="multiscale")


def test_the_documented_lines_run(trained, model, tmp_path, monkeypatch):
    workspace, run, cohort = trained
    page = (ROOT / "docs" / "how-to" / "embed.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.S).group(1)
    path = next(path for path in cohort["path"] if path.endswith(".nii.gz"))
    (tmp_path / "scan.nii.gz").symlink_to(path)
    (tmp_path / "runs" / "demo" / "pretrain").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "pretrain" / "RUN").symlink_to(workspace.path("pretrain", run))
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code, scope)
    result = scope["result"]
    assert result.patient_P.shape == (128,)
    assert result.patches_NP.shape == (model.atlas.num_locations, 128)
    assert result.affine.shape == (4, 4)
    assert result.verdict.state == "accepted"
    assert result.overlay is None


def test_pooling_and_overlay_are_options(trained, model):
    path = trained[2]["path"].iloc[0]
    found = embed_scan(path, model, pooling="mean_std", overlay=True)
    assert found.patient_P.shape == (256,)
    assert found.overlay.startswith(b"\x89PNG")
    with pytest.raises(StageError, match="'max'"):
        embed_scan(path, model, pooling="max")


def test_an_error_of_the_scan_ends_in_its_row(model, tmp_path):
    (tmp_path / "DOE_JANE.nii.gz").write_bytes(b"nothing")
    path = str(tmp_path / "DOE_JANE.nii.gz")
    with pytest.raises(ScanError):
        embed_scan(path, model)
    item = {"scan_id": "a", "subject_id": "p", "path": path, "series_uid": ""}
    scan = ScanEmbedder(model)(item)
    assert not scan.has_vectors
    assert (scan.row["state"], scan.row["scan_id"], scan.row["subject_id"]) == ("failed", "a", "p")
    assert scan.row["reason"]
    assert "DOE" not in str(scan.row)


def test_a_rejected_scan_has_a_verdict_and_no_vectors(trained, model):
    card = {**model.card, "preparation": {**model.card["preparation"], "quality": {"reject_dice": 1.0}}}
    strict = drasclr.load(trained[0].path("pretrain", trained[1]))
    strict.card = card
    found = embed_scan(trained[2]["path"].iloc[0], strict)
    assert found.verdict.state == "rejected"
    assert found.verdict.reasons
    assert found.patient_P is None
    assert found.patches_NP is None


def test_weights_without_an_atlas_are_refused_with_a_way_out():
    from drasclr.encoder import Encoder

    with pytest.raises(StageError, match=r"--atlas WORKSPACE/atlas"):
        ScanEmbedder(Encoder(1).eval())


def test_the_card_says_how_scans_are_prepared(model, small_recipe):
    found = preparation_of(model.card)
    assert found.lungs == small_recipe.prepare.lungs
    assert found.quality == small_recipe.prepare.quality
    assert preparation_of({"hu_window": [-1000, 400]}).hu_window == (-1000, 400)
    with pytest.raises(StageError, match=r"preparation\.lungs\.depth"):
        preparation_of({"preparation": {"lungs": {"depth": 3}}})
