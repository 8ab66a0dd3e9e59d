"""Terms of the loss against plain loops in double precision."""

import math

import pytest
import torch

from drasclr import losses
from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder
from drasclr.moments import EPS

GENERATOR = torch.Generator().manual_seed(0)


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """[2, 3] positives and [2, 3, 4] negatives; of scan (0, 1) none counts, of (1, 2) one."""
    positive = torch.randn(2, 3, generator=GENERATOR, dtype=torch.float64) * 3
    negative = torch.randn(2, 3, 4, generator=GENERATOR, dtype=torch.float64) * 3
    negative[0, 1] = -math.inf
    negative[1, 2, 1:] = -math.inf
    return positive, negative


def naive(positive: float, negative: list[float], *, decoupled: bool) -> float:
    counting = [math.exp(value) for value in negative if value > -math.inf]
    if not counting:
        return 0.0
    return math.log(sum(counting) + (0 if decoupled else math.exp(positive))) - positive


@pytest.mark.parametrize("decoupled", [False, True])
def test_info_nce_equals_a_loop(decoupled):
    positive, negative = logits()
    found = losses.info_nce(positive, negative, decoupled=decoupled)
    for place in range(2):
        for scan in range(3):
            wanted = naive(positive[place, scan].item(), negative[place, scan].tolist(), decoupled=decoupled)
            assert found[place, scan].item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("decoupled", [False, True])
def test_gradients_are_finite_and_nothing_is_learned_without_negatives(decoupled):
    positive, negative = logits()
    positive.requires_grad_(), negative.requires_grad_()
    losses.info_nce(positive, negative, decoupled=decoupled).sum().backward()
    assert positive.grad.isfinite().all()
    assert negative.grad.isfinite().all()
    assert positive.grad[0, 1] == 0
    assert (negative.grad[0, 1] == 0).all()
    empty = losses.info_nce(positive, negative[..., :0], decoupled=decoupled)
    assert torch.equal(empty, torch.zeros(2, 3, dtype=torch.float64))


def test_the_decoupled_gradient_does_not_vanish_where_the_positive_is_told_easily():
    gradients = []
    for decoupled in (False, True):
        positive = torch.tensor([[12.0]], dtype=torch.float64, requires_grad=True)
        negative = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
        losses.info_nce(positive, negative, decoupled=decoupled).sum().backward()
        gradients.append(positive.grad.item())
    assert gradients[0] == pytest.approx(-(1 + math.e) / (1 + math.e + math.exp(12)))
    assert gradients[1] == pytest.approx(-1)


def test_variance_equals_a_loop():
    embeddings = torch.nn.functional.normalize(
        torch.randn(3, 5, 8, generator=GENERATOR, dtype=torch.float64), dim=-1
    )
    total = 0.0
    for place in embeddings.tolist():
        for feature in zip(*place, strict=True):
            mean = sum(feature) / 5
            variance = 8 * sum((value - mean) ** 2 for value in feature) / 4
            total += max(0.0, 1 - math.sqrt(variance + EPS))
    assert losses.variance(embeddings).item() == pytest.approx(total / 24, abs=1e-12)


def test_variance_is_low_on_the_whole_sphere_and_high_in_collapse_and_pulls_apart():
    wide = torch.nn.functional.normalize(torch.randn(2, 4000, 16, generator=GENERATOR), dim=-1)
    assert losses.variance(wide).item() < 0.02
    narrow = torch.nn.functional.normalize(5 + 0.1 * torch.randn(2, 30, 16, generator=GENERATOR), dim=-1)
    narrow.requires_grad_()
    loss = losses.variance(narrow)
    assert loss.item() > 0.9
    loss.backward()
    moved = narrow.detach() - 0.5 * narrow.grad
    assert losses.variance(moved).item() < loss.item()
    with pytest.raises(ValueError, match=r"variance_weight.* at least 2 scans .* got 1"):
        losses.variance(wide[:, :1])


@pytest.mark.parametrize("local_weight", [0.0, 1.0])
def test_the_terms_are_part_of_the_step(local_weight):
    torch.manual_seed(0)
    places = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]])
    settings = {
        "coordinates_N3": places,
        "neighbours_NK": torch.tensor([[1], [2], [0]]),
        "queue_size": 4,
        "batch_negatives": True,
        "beta": 0.5,
        "local_weight": local_weight,
    }
    model = DrasCLR(encoder=Encoder(experts=2, norm="group"), decoupled=True, variance_weight=0.7, **settings)
    views = [torch.rand(2, 3, 1, 32, 32, 32) * 2 - 1 for _ in range(3)]
    locations = torch.tensor([0, 2])
    result = model(views[0], views[1], views[2][:, None], locations, torch.arange(3))
    with torch.no_grad():
        embeddings = [
            torch.nn.functional.normalize(
                model.query.project(model.query.grouped(patches, places[at])), dim=-1
            )
            for patches, at in ((views[0], locations), (views[2], torch.tensor([1, 0])))
        ]
    trained = embeddings if local_weight else embeddings[1:]
    variance = losses.variance(torch.cat(trained))
    assert result.metrics["variance"].item() == pytest.approx(variance.item(), rel=1e-5)
    for found, queries in zip((result.local, result.global_), embeddings, strict=True):
        similarity = (queries @ result.keys_GSD.transpose(1, 2) / 0.2).tolist()
        wanted = [
            naive(row[scan], row[:scan] + row[scan + 1 :], decoupled=True)
            for place in similarity
            for scan, row in enumerate(place)
        ]
        assert found.item() == pytest.approx(sum(wanted) / 6, rel=1e-4)
    total = local_weight * result.local + 0.5 * result.global_ + 0.7 * variance
    assert result.loss.item() == pytest.approx(total.item(), rel=1e-5)
    with pytest.raises(ValueError, match="variance_weight is 0 or above"):
        DrasCLR(encoder=Encoder(experts=1), variance_weight=-1.0, **settings)
