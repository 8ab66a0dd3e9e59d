"""The ONNX graph computes what the encoder computes, of every kind of encoder, for any number of patches."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from ctplatform.errors import StageError
from ctplatform.export.onnx_graph import IR_VERSION, OPSET, onnx_model
from drasclr.encoder import Encoder
from drasclr.norm import recalibrate


def some_patches(count: int, *, seed: int = 6) -> torch.Tensor:
    """Patches [count, 1, 32, 32, 32] in [-1, 1] that differ in level, slope and noise."""
    generator = torch.Generator().manual_seed(seed)
    level, slope = torch.rand(2, count, 1, 1, 1, 1, generator=generator) * 2 - 1
    ramp = torch.linspace(-1, 1, 32)
    noise = torch.rand(count, 1, 32, 32, 32, generator=generator) - 0.5
    return (0.5 * level + 0.5 * slope * ramp + noise).clamp(-1, 1)


def some_locations(count: int, *, seed: int = 7) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained(conditioning: str, norm: str, *, experts: int = 3) -> Encoder:
    """An encoder with the statistics of its data, and scales, shifts and routing away from their initial values."""
    torch.manual_seed(5)
    encoder = Encoder(experts, conditioning, norm=norm, routing_gain=4.0)
    with torch.no_grad():
        for name, tensor in encoder.state_dict().items():
            if ".norm.weight" in name:
                tensor.uniform_(0.5, 1.5)
            elif ".norm.bias" in name:
                tensor.uniform_(-0.2, 0.2)
    recalibrate(encoder, [(some_patches(6, seed=1), some_locations(6, seed=2))])
    return encoder.eval()


def computed(model, patches: torch.Tensor, locations: torch.Tensor) -> np.ndarray:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"patches": patches.numpy(), "locations": locations.numpy()})
    return found


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("conditioning", ["experts", "concat", "none"])
def test_equal_to_the_encoder(conditioning, norm):
    pytest.importorskip("onnx")
    encoder = trained(conditioning, norm)
    patches, locations = some_patches(3), some_locations(3)
    locations[2] = locations[0]
    with torch.no_grad():
        expected = encoder(patches, locations).numpy()
    model = onnx_model(encoder)
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION) == (17, 8)
    found = computed(model, patches, locations)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    # The bound is far below the differences between patches.
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max()
    one = computed(model, patches[1:2], locations[1:2])
    np.testing.assert_allclose(one, expected[1:2], atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_multiscale_features_follow_the_last_ones():
    pytest.importorskip("onnx")
    encoder = trained("experts", "batch")
    patches, locations = some_patches(2), some_locations(2)
    with torch.no_grad():
        expected = encoder.grouped_all(patches[:, None], locations)[:, 0].numpy()
    found = computed(onnx_model(encoder, features="multiscale"), patches, locations)
    assert found.shape == (2, 128 + 496)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_double_precision_weights_become_single():
    pytest.importorskip("onnx")
    encoder = trained("experts", "batch").double()
    patches, locations = some_patches(1).double(), some_locations(1).double()
    with torch.no_grad():
        expected = encoder(patches, locations).numpy()
    found = computed(onnx_model(encoder), patches.float(), locations.float())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(StageError, match=r"pip install 'drasclr\[onnx\]'"):
        onnx_model(Encoder(2))
