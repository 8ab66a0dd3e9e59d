"""Few samples a location: every way through the stack gives what single patches give."""

import pytest
import torch
import torch.nn.functional as F

from drasclr import inference, pointwise
from drasclr.encoder import Encoder
from tests.drasclr.test_exactness import batch


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(3)
    model = Encoder(experts=3).double()
    with torch.no_grad():
        model(*batch([0, 1, 1, 0]))  # running statistics other than the initial ones
    return model.eval()


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("many", [4, 1000], ids=["outputs mixed", "kernels mixed"])
def test_few_samples_at_many_locations_equal_single_patches(encoder, monkeypatch, samples, many):
    monkeypatch.setattr(inference, "MANY_LOCATIONS", many)
    monkeypatch.setattr(inference, "RUN", 3)
    monkeypatch.setattr(inference, "DENSE_SAMPLES", 4)
    generator = torch.Generator().manual_seed(2)
    patches = torch.rand(5, samples, 1, 32, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1
    locations = torch.rand(5, 3, generator=generator, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        wanted = torch.stack(
            [
                torch.cat([encoder(patch[None], at[None]) for patch in own])
                for own, at in zip(patches, locations, strict=True)
            ]
        )
        torch.testing.assert_close(encoder.grouped(patches, locations), wanted, rtol=0, atol=1e-12)
        mixed = encoder(patches.flatten(0, 1), locations.repeat_interleave(samples, dim=0))
        torch.testing.assert_close(mixed, wanted.flatten(0, 1), rtol=0, atol=1e-12)
        scales = encoder.grouped_multiscale(patches, locations)
        for row, patch, at in zip(scales, patches, locations, strict=True):
            for found, one in zip(row, patch, strict=True):
                alone = encoder.multiscale(one[None], at[None])[0]
                torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-11)


def test_single_precision_differs_by_rounding_only(encoder):
    single = Encoder(experts=3).eval()
    single.load_state_dict(encoder.state_dict())
    patches, locations = torch.rand(33, 1, 32, 32, 32) * 2 - 1, torch.rand(33, 3) * 2 - 1
    with torch.no_grad():
        exact = encoder(patches.double(), locations.double())
        found = single(patches, locations)
    assert (found - exact).abs().max() < 5e-6 * exact.abs().max()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_matrix_of_voxels_is_the_convolution(stride):
    torch.manual_seed(0)
    experts, bias = torch.randn(3, 5, 3, 3, 3, 4), torch.randn(5)
    routing_GE, x = torch.rand(2, 3), torch.randn(3, 4, 2, 2, 2)
    layer = inference.FoldedLayer(experts, routing_GE, bias, stride)
    found = inference._dense(x, layer, torch.tensor([2, 1]))
    for sample, routing_E, y in zip(x, routing_GE[[0, 0, 1]], found, strict=True):
        kernel = (routing_E @ experts.flatten(1)).view(5, 3, 3, 3, 4).permute(0, 4, 1, 2, 3)
        torch.testing.assert_close(y, F.conv3d(sample[None], kernel, bias, stride, 1)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_product_of_windows_is_the_convolution(stride, samples):
    torch.manual_seed(0)
    places = 2 * inference.PRODUCT_PLACES + 1
    kernels = torch.randn(places, 5, 4, 3, 3, 3, dtype=torch.float64)
    x, bias = torch.randn(places * samples, 4, 4, 6, 8).double(), torch.randn(5).double()
    layer = inference.FoldedLayer(kernels, None, bias, stride)
    found = inference._product(x, kernels, layer)
    for kernel, own, y in zip(kernels, x.split(samples), found.split(samples), strict=True):
        torch.testing.assert_close(y, F.conv3d(own, kernel, bias, stride, 1), rtol=0, atol=1e-12)


def test_small_grids_are_computed_as_products_where_locations_have_equally_few_samples(encoder, monkeypatch):
    monkeypatch.setattr(inference, "MANY_LOCATIONS", 2)
    shapes = []
    product = inference._product

    def observed(x, kernels, layer):
        shapes.append(tuple(x.shape[2:]))
        return product(x, kernels, layer)

    monkeypatch.setattr(inference, "_product", observed)
    patches, locations = torch.rand(5, 1, 32, 32, 32).double(), torch.rand(5, 3).double()
    with torch.no_grad():
        alone = encoder(patches, locations)
        assert shapes == [(8, 8, 8), (4, 4, 4), (4, 4, 4), (4, 4, 4)]
        rows = [0, 0, 0, 0, 1, 2, 2, 3, 3, 4, 4, 4]
        unequal = encoder(patches[rows], locations[rows])
        assert len(shapes) == 4
        torch.testing.assert_close(unequal, alone[rows], rtol=0, atol=1e-12)


def test_folding_before_or_after_mixing_is_the_same():
    torch.manual_seed(0)
    experts, bias = torch.randn(3, 5, 3, 3, 3, 4).double(), torch.randn(5).double()
    norm = pointwise.Norm(*(torch.rand(4, 5).double() + 0.5).unbind(), eps=1e-5)
    routing_GE = torch.rand(4, 3).double()
    before = inference.fold(experts, routing_GE, bias, norm, 1)
    after = inference.fold(experts, routing_GE[:2], bias, norm, 1)
    assert before.routing_GE is not None
    assert after.routing_GE is None
    mixed = (before.routing_GE[:2] @ before.kernels.flatten(1)).view_as(after.kernels)
    torch.testing.assert_close(after.kernels, mixed)
    torch.testing.assert_close(after.bias, before.bias)
