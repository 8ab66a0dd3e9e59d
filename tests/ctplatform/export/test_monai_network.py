"""The bundle's network computes what the encoder computes, also as TorchScript."""

from __future__ import annotations

import pytest
import torch

from ctplatform.export.monai_network import AtlasEncoder, network_arguments, network_state
from tests.ctplatform.export.test_onnx_graph import some_locations, some_patches, trained


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("conditioning", "norm", "features"),
    [
        ("experts", "batch", "last"),
        ("experts", "group", "multiscale"),
        ("concat", "batch", "multiscale"),
        ("none", "group", "last"),
    ],
)
def test_equal_to_the_encoder(conditioning, norm, features):
    encoder = trained(conditioning, norm)
    coordinates_N3, patches_BNDHW = some_locations(2), some_patches(4)[:, 0].unflatten(0, (2, 2))
    network = AtlasEncoder(**network_arguments(encoder, features=features, locations=2)).eval()
    network.load_state_dict(network_state(encoder, coordinates_N3))
    grouped = patches_BNDHW.transpose(0, 1)[:, :, None].contiguous()
    encode = encoder.grouped_all if features == "multiscale" else encoder.grouped
    with torch.no_grad():
        expected_BNF = encode(grouped, coordinates_N3).transpose(0, 1)
        for found in (network, torch.jit.script(network)):
            torch.testing.assert_close(found(patches_BNDHW), expected_BNF, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(found(patches_BNDHW[:1]), expected_BNF[:1], atol=2e-5, rtol=1e-4)
    assert (expected_BNF[0] - expected_BNF[1]).abs().max() > 0.1 * expected_BNF.abs().max()
