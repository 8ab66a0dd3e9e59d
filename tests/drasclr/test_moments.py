"""Statistics over the scans of a location: against torch's own, and what normalisation by them does."""

import pytest
import torch
from torch.nn import functional as F

from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder
from drasclr.moments import EPS, moments, standardise


def values(*shape: int) -> torch.Tensor:
    """Projections as they are early in training: locations far apart, scans close together."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randn(shape[0], 1, shape[2], generator=generator, dtype=torch.float64) * 100
    return place + torch.randn(shape, generator=generator, dtype=torch.float64)


def test_moments_are_those_of_torch():
    x = values(3, 7, 5)
    found = moments(x)
    torch.testing.assert_close(found.mean_GD, x.mean(1))
    torch.testing.assert_close(found.variance_GD, x.var(1, unbiased=False))
    assert found.count == 7


def test_standardising_is_batch_normalisation_of_each_location_and_its_gradient():
    x = values(3, 7, 5).requires_grad_()
    probe = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x).sin()
    wanted = torch.stack([F.batch_norm(place, None, None, training=True, eps=EPS) for place in x])
    (wanted_grad,) = torch.autograd.grad((wanted * probe).sum(), x)
    found = standardise(x)
    (grad,) = torch.autograd.grad((found * probe).sum(), x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(grad, wanted_grad)


def test_what_all_scans_of_a_location_share_is_taken_away():
    x = values(2, 6, 4)
    shift = torch.tensor([[[1.0, -3, 0, 50]], [[7.0, 0, 0, -1]]], dtype=torch.float64)
    torch.testing.assert_close(standardise(x + shift), standardise(x))
    single = standardise(x.float() + 1e3)
    torch.testing.assert_close(single, standardise(x).float(), rtol=0, atol=1e-3)


def test_rounding_is_not_scaled_up_to_a_difference():
    same = torch.full((1, 8, 3), 5.0)
    nearly = same + torch.linspace(-1, 1, 8)[None, :, None] * 1e-6
    assert standardise(same).abs().max() == 0
    assert standardise(nearly).abs().max() < 1e-3


def test_a_single_scan_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"at least 2 scans .* got 1; raise scans_per_batch"):
        standardise(values(3, 1, 4))


COORDINATES = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1], [0, 1, -1]])
NEIGHBOURS = torch.tensor([[1], [2], [3], [0]])


def model(**settings) -> DrasCLR:
    torch.manual_seed(0)
    encoder = Encoder(experts=2, norm="group")
    return DrasCLR(
        encoder=encoder, coordinates_N3=COORDINATES, neighbours_NK=NEIGHBOURS, queue_size=8, **settings
    )


def views(scans: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(2, scans, 1, 32, 32, 32, generator=generator) * 2 - 1 for _ in range(3)]


@pytest.mark.parametrize("location_norm", [False, True])
def test_the_step_normalises_queries_neighbours_and_keys(location_norm):
    step = model(location_norm=location_norm, batch_negatives=True)
    query, key, near = views(4)
    locations = torch.tensor([1, 3])
    result = step(query, key, near[:, None], locations, torch.arange(4))

    def embed(encoder: Encoder, patches: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        z = encoder.project(encoder.grouped(patches, COORDINATES[places]))
        return F.normalize(standardise(z) if location_norm else z, dim=-1)

    keys = embed(step.key, key, locations)
    assert torch.equal(result.keys_GSD, keys)
    wanted = []
    for embeddings in (
        embed(step.query, query, locations),
        embed(step.query, near, NEIGHBOURS[locations][:, 0]),
    ):
        logits = embeddings @ keys.transpose(1, 2) / 0.2
        wanted.append(F.cross_entropy(logits.flatten(0, 1), torch.arange(4).repeat(2)))
    assert result.local.item() == pytest.approx(wanted[0].item(), rel=1e-5)
    assert result.global_.item() == pytest.approx(wanted[1].item(), rel=1e-5)
    # Embeddings of a location point the same way, unless they are normalised.
    together = keys.mean(1).norm(dim=-1)
    assert (together < 0.2).all() if location_norm else (together > 0.7).all()


def test_one_scan_a_location_is_refused_before_anything_changes():
    step = model(location_norm=True)
    query, key, near = views(1)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    with pytest.raises(ValueError, match="location_norm"):
        step(query, key, near[:, None], torch.tensor([1, 3]), torch.arange(1))
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items())
