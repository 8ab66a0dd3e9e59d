"""The bundle as MONAI's own functions take it: metadata, shapes, TorchScript, inference of a scan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ctplatform.errors import StageError
from ctplatform.export.monai_bundle import write_monai_bundle
from ctplatform.inference.scan_embedding import embed_scan
from drasclr.encoder import Encoder

#: What MONAI's schema of 2024-07-25 demands; the file itself is on MONAI's site.
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        **{key: {"type": "string"} for key in ("type", "format", "dtype")},
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
}
TENSORS = {"type": "object", "additionalProperties": TENSOR}
TEXTS = ("schema", "version", "monai_version", "pytorch_version", "numpy_version")
TEXTS += ("task", "description", "authors", "copyright")
SCHEMA = {
    "type": "object",
    "required": [*TEXTS, "required_packages_version", "network_data_format"],
    "properties": {
        **{key: {"type": "string"} for key in (*TEXTS, "intended_use")},
        **{key: {"type": "object"} for key in ("changelog", "required_packages_version")},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "new"
    write_monai_bundle(model, folder)
    return folder


def test_metadata_pass_monais_verification(bundle, tmp_path):
    from monai.bundle import verify_metadata, verify_net_in_out

    pytest.importorskip("jsonschema")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    meta = bundle / "configs" / "metadata.json"
    verify_metadata(meta_file=str(meta), filepath=str(schema))  # a file that is there is not fetched
    broken = json.loads(meta.read_text())
    del broken["network_data_format"]["outputs"]["pred"]["dtype"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="'dtype' is a required property"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(schema))
    config = bundle / "configs" / "inference.json"
    verify_net_in_out("network_def", meta_file=str(meta), config_file=str(config), device="cpu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_export(bundle, model, tmp_path):
    from monai.bundle import ckpt_export

    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
    )
    count = model.atlas.num_locations
    patches_BNDHW = torch.rand(1, count, 32, 32, 32) * 2 - 1
    scripted = torch.jit.load(tmp_path / "model.ts").eval()
    with torch.no_grad():
        expected = model(patches_BNDHW[0, :, None], torch.from_numpy(model.atlas.coordinates_N3))
        torch.testing.assert_close(scripted(patches_BNDHW)[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_inference_gives_the_vectors_of_embed(bundle, model, trained, tmp_path):
    pytest.importorskip("ignite", reason="MONAI's evaluator needs it: pip install 'drasclr[monai]'")
    from monai.bundle import run

    _, _, cohort = trained
    path = Path(next(path for path in cohort["path"] if str(path).endswith(".nii.gz")))
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / path.name).symlink_to(path)
    run(
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
        dataset_dir=str(scans),
        output_dir=str(tmp_path / "out"),
    )
    with np.load(tmp_path / "out" / f"{path.name.partition('.')[0]}.npz") as found:
        expected = embed_scan(str(path), model)
        np.testing.assert_allclose(found["patches_NP"], expected.patches_NP, atol=1e-4)
        np.testing.assert_allclose(found["patient_P"], expected.patient_P, atol=1e-4)


def test_weights_without_an_atlas_are_refused(tmp_path):
    with pytest.raises(StageError, match="saved without their atlas"):
        write_monai_bundle(Encoder(2), tmp_path)
    assert not list(tmp_path.iterdir())
