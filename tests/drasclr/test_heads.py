import copy

import numpy as np
import pytest
import torch

from drasclr import Atlas
from drasclr.encoder import Encoder
from drasclr.heads import Segmenter, dense_features
from tests.drasclr.test_atlas import GRID, ellipsoid


@pytest.mark.parametrize("conditioning", ["experts", "concat"])
def test_maps_lead_to_the_features(conditioning):
    torch.manual_seed(0)
    encoder = Encoder(2, conditioning).eval()
    patches, locations = torch.rand(2, 1, 32, 32, 32), torch.rand(2, 3)
    with torch.no_grad():
        maps = encoder.maps(patches, locations)
        assert [tuple(m.shape[1:3]) for m in maps] == [(8, 32), (16, 16), (32, 8), (64, 4), (128, 2)]
        one = [encoder.maps(patches[[i]], locations[[i]]) for i in range(2)]
        for together, *alone in zip(maps, *one, strict=True):
            torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_segmenter_learns_a_threshold_through_the_encoder():
    torch.manual_seed(0)
    model = Segmenter(Encoder(experts=2), classes=2)
    before = copy.deepcopy(model.encoder.state_dict())
    patches, locations = torch.rand(2, 1, 32, 32, 32) * 2 - 1, torch.rand(2, 3)
    target = (patches[:, 0] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(patches, locations), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert not torch.equal(model.encoder.layers[0].conv.weight, before["layers.0.conv.weight"])


def test_dense_map_equals_single_windows_each_at_its_own_location():
    torch.manual_seed(0)
    encoder = Encoder(experts=2).eval()
    atlas = Atlas.from_template(ellipsoid(), **GRID, patch_size=32, step=20)
    volume = torch.rand(40, 48, 32) * 2 - 1

    def locate(centres_M3: torch.Tensor) -> torch.Tensor:
        points = centres_M3.flip(1).double().numpy() @ np.diag([1, -1, 1]) + np.array(GRID["origin"])
        return torch.from_numpy(atlas.coordinates_at(points))

    features = dense_features(encoder, volume, locate=locate, stride=8, batch=4)
    assert features.shape == (128, 2, 3, 1)
    z, y = 1, 2
    window = volume[8 * z : 8 * z + 32, 8 * y : 8 * y + 32, :32]
    centre = torch.tensor([[8 * z + 15.5, 8 * y + 15.5, 15.5]])
    with torch.no_grad():
        expected = encoder(window[None, None], locate(centre))[0]
    torch.testing.assert_close(features[:, z, y, 0], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="a window 32"):
        dense_features(encoder, volume[:20], locate=locate)


def test_coordinates_anywhere_agree_with_those_of_the_locations():
    atlas = Atlas.from_template(ellipsoid(), **GRID, patch_size=16, step=10)
    np.testing.assert_allclose(atlas.coordinates_at(atlas.centres_mm_N3), atlas.coordinates_N3, atol=1e-6)
    assert np.abs(atlas.coordinates_at(atlas.centres_mm_N3 + 1e4)).max() <= 1
