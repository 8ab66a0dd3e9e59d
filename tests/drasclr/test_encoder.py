"""What the encoder gives beside features: means and spreads of its maps at every scale."""

import pytest
import torch

from drasclr.encoder import MAP_CHANNELS, MULTISCALE_FEATURES, Encoder
from tests.drasclr.test_exactness import MIXTURES, batch


def plain_scales(encoder: Encoder, patch: torch.Tensor, location: torch.Tensor) -> torch.Tensor:
    """Means and spreads of the maps of one patch, layer after layer."""
    x = patch[None]
    if encoder.conditioning == "concat":
        x = torch.cat([x, location.view(1, 3, 1, 1, 1).expand(1, 3, *x.shape[2:])], dim=1)
    maps = []
    for layer in encoder.layers:
        if layer.conv.stride == 2:
            maps.append(x)
        kernel = layer.conv.kernels(location[None])[0]
        x = layer.norm(torch.nn.functional.conv3d(x, kernel, layer.conv.bias, layer.conv.stride, 1))
    means = [level.mean((2, 3, 4)) for level in maps]
    spreads = [level.std((2, 3, 4), unbiased=False) for level in maps]
    return torch.cat([*means, *spreads], dim=1)[0]


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("conditioning", ["experts", "concat", "none"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_multiscale_equals_a_plain_computation_patch_by_patch(mixture, conditioning, norm):
    torch.manual_seed(0)
    encoder = Encoder(3, conditioning, norm=norm).double()
    patches, locations = batch(mixture)
    with torch.no_grad():
        encoder(patches, locations)  # running statistics other than the initial ones
        encoder.eval()
        found = encoder.multiscale(patches, locations)
        wanted = torch.stack([plain_scales(encoder, *pair) for pair in zip(patches, locations, strict=True)])
    assert found.shape == (len(mixture), MULTISCALE_FEATURES) == (len(mixture), 496)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    # The path that gradients flow through computes the same.
    torch.testing.assert_close(encoder.multiscale(patches, locations).detach(), found, rtol=1e-9, atol=1e-11)


def test_multiscale_by_location_and_in_single_precision():
    torch.manual_seed(0)
    encoder = Encoder(2).eval()
    patches, locations = torch.rand(12, 1, 32, 32, 32) * 2 - 1, torch.rand(3, 3) * 2 - 1
    with torch.no_grad():
        grouped = encoder.grouped_multiscale(patches.unflatten(0, (3, 4)), locations)
        mixed = encoder.multiscale(patches, locations.repeat_interleave(4, dim=0))
        assert grouped.shape == (3, 4, 496)
        torch.testing.assert_close(grouped.flatten(0, 1), mixed, rtol=0, atol=1e-6)
        exact = encoder.double().multiscale(patches.double(), locations.double().repeat_interleave(4, dim=0))
    torch.testing.assert_close(mixed.double(), exact, rtol=0, atol=1e-5)


def test_multiscale_equals_moments_of_the_maps():
    torch.manual_seed(0)
    encoder = Encoder(2).eval()
    patches, locations = torch.rand(3, 1, 32, 32, 32) * 2 - 1, torch.rand(3, 3)
    with torch.no_grad():
        maps = encoder.maps(patches, locations)
        found = encoder.multiscale(patches, locations)
    assert tuple(level.shape[1] for level in maps) == MAP_CHANNELS
    wanted = [level.mean((2, 3, 4)) for level in maps]
    wanted += [level.std((2, 3, 4), unbiased=False) for level in maps]
    torch.testing.assert_close(found, torch.cat(wanted, dim=1), rtol=0, atol=1e-5)


def test_multiscale_of_more_patches_than_are_encoded_at_once(monkeypatch):
    monkeypatch.setattr("drasclr.encoder.ONE_EACH", 3)
    torch.manual_seed(0)
    encoder = Encoder(2).eval()
    patches, locations = torch.rand(7, 1, 32, 32, 32) * 2 - 1, torch.rand(7, 3)
    with torch.no_grad():
        together = encoder.multiscale(patches, locations)
        alone = torch.cat([encoder.multiscale(patches[[i]], locations[[i]]) for i in range(7)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_a_gradient_flows_through_multiscale_features_of_constant_patches_too():
    torch.manual_seed(0)
    encoder = Encoder(2).eval()
    patches, locations = torch.zeros(2, 1, 32, 32, 32), torch.rand(2, 3)
    encoder.multiscale(patches, locations).sum().backward()
    layers = [layer for _, layer in encoder.stages()]
    for layer in layers[:-1]:
        assert layer.conv.weight.grad.isfinite().all()
    for layer in layers[1:-1]:  # a kernel applied to zeros has none
        assert layer.conv.weight.grad.abs().max() > 0


def test_multiscale_checks_its_input():
    with pytest.raises(ValueError, match="patches must be"):
        Encoder(1).multiscale(torch.zeros(1, 1, 16, 32, 32), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"locations of shape \[2, 3\]"):
        Encoder(1).grouped_multiscale(torch.zeros(2, 2, 1, 32, 32, 32), torch.zeros(1, 3))


def test_all_features_are_those_of_both_calls():
    torch.manual_seed(0)
    encoder = Encoder(experts=2).eval()
    patches, locations = torch.randn(2, 3, 1, 32, 32, 32), torch.rand(2, 3)
    with torch.no_grad():
        both = encoder.grouped_all(patches, locations)
        torch.testing.assert_close(both[..., :128], encoder.grouped(patches, locations))
        torch.testing.assert_close(both[..., 128:], encoder.grouped_multiscale(patches, locations))
