"""The folder holds all that another program needs: graph, card, locations of the atlas."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ctplatform.export.onnx_folder import write_onnx
from drasclr.atlas import Atlas
from drasclr.encoder import Encoder


def test_the_folder_feeds_a_runtime(small_atlas, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    encoder = Encoder(2).eval()
    encoder.card, encoder.atlas = {"hu_window": [-1024, 240], "features": "last"}, small_atlas
    lines = write_onnx(encoder, tmp_path / "new" / "onnx")
    folder = tmp_path / "new" / "onnx"
    assert "opset 17" in lines[0]
    assert "128 features" in lines[0]
    locations = np.load(folder / "locations.npy")
    np.testing.assert_array_equal(locations, small_atlas.coordinates_N3)
    assert Atlas.from_json(json.loads((folder / "atlas.json").read_text())).hash == small_atlas.hash
    session = runtime.InferenceSession(str(folder / "encoder.onnx"), providers=["CPUExecutionProvider"])
    patches = np.random.default_rng(0).uniform(-1, 1, (2, 1, 32, 32, 32)).astype(np.float32)
    (found,) = session.run(["features"], {"patches": patches, "locations": locations[:2]})
    with torch.no_grad():
        expected = encoder(torch.from_numpy(patches), torch.from_numpy(locations[:2])).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    stated = {item.key: json.loads(item.value) for item in onnx.load(folder / "encoder.onnx").metadata_props}
    assert stated["card"] == encoder.card


def test_weights_without_an_atlas_give_the_graph_alone(tmp_path):
    pytest.importorskip("onnx")
    write_onnx(Encoder(1, "none").eval(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
