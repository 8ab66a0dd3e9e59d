"""Losses against closed forms, and the step as a whole."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder

COORDINATES = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1], [0, 1, -1]])
NEIGHBOURS = torch.tensor([[1, 2], [0, 3], [3, 1], [2, 0]])


class Direction(nn.Module):
    """Stands for the encoder in closed forms: the first 128 voxels of a patch are its embedding."""

    experts = 1

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def grouped(self, patches_GSCDHW, locations_G3):
        return patches_GSCDHW.flatten(2)[..., :128] * self.scale

    def project(self, features):
        return features


def patch(*angles: float) -> torch.Tensor:
    """Patches whose embeddings are unit vectors at these angles, [S, 1, 32, 32, 32]."""
    flat = torch.zeros(len(angles), 32**3)
    flat[:, 0] = torch.tensor(angles).cos()
    flat[:, 1] = torch.tensor(angles).sin()
    return flat.view(-1, 1, 32, 32, 32)


def closed_form(**settings) -> DrasCLR:
    return DrasCLR(
        encoder=Direction(),
        **{"coordinates_N3": COORDINATES, "neighbours_NK": NEIGHBOURS, "queue_size": 4, **settings},
    )


def remember(model: DrasCLR, location: int, angles: list[float], subjects: list[int]) -> None:
    vectors = patch(*angles).flatten(1)[:, :128]
    model.memory.enqueue(torch.tensor([location]), vectors[None], torch.tensor(subjects))


def step(model, query, key, neighbours, *, location=1, subjects=(7, 8)):
    return model(
        patch(*query)[None],
        patch(*key)[None],
        torch.stack([patch(*angles) for angles in neighbours])[None] if neighbours else None,
        torch.tensor([location]),
        torch.tensor(subjects),
    )


def info_nce(positive: float, negatives: list[float], temperature: float = 0.2) -> float:
    exps = [math.exp(value / temperature) for value in (positive, *negatives)]
    return -math.log(exps[0] / sum(exps))


@pytest.mark.parametrize("aggregation", ["sum", "mean", "attention"])
def test_two_samples_one_negative_two_neighbours(aggregation):
    model = closed_form(neighbour_aggregation=aggregation, beta=0.7)
    remember(model, 1, [2.0], [1])
    result = step(model, query=(0.0, 0.5), key=(0.3, 0.1), neighbours=[(0.2, 0.4), (-0.1, 1.0)])
    local = [info_nce(math.cos(q - k), [math.cos(q - 2.0)]) for q, k in ((0.0, 0.3), (0.5, 0.1))]
    share = 1.0 if aggregation == "sum" else 0.5  # attention starts as the mean
    context = []
    for first, second, key in ((0.2, -0.1, 0.3), (0.4, 1.0, 0.1)):
        together = [share * (math.cos(first - a) + math.cos(second - a)) for a in (key, 2.0)]
        context.append(info_nce(together[0], together[1:]))
    assert result.local.item() == pytest.approx(sum(local) / 2, abs=1e-6)
    assert result.global_.item() == pytest.approx(sum(context) / 2, abs=1e-6)
    assert result.loss.item() == pytest.approx(sum(local) / 2 + 0.7 * sum(context) / 2, abs=1e-6)


def test_empty_memory_is_finite_and_teaches_nothing():
    model = closed_form()
    result = step(model, query=(0.0, 1.0), key=(0.5, 0.5), neighbours=[(0.0, 0.0), (0.0, 0.0)])
    result.loss.backward()
    assert result.loss.item() == 0
    assert model.query.scale.grad.item() == 0
    assert result.metrics["negatives"].item() == 0
    assert math.isnan(result.metrics["top1"].item())


@pytest.mark.parametrize("exclude", [True, False])
def test_keys_of_the_same_subject_are_no_negatives(exclude):
    model = closed_form(exclude_same_subject=exclude, beta=0.0)
    remember(model, 1, [1.0, 2.0, 3.0], [7, 8, 9])
    result = step(model, query=(0.0, 0.0), key=(0.1, 0.1), neighbours=None, subjects=(7, 8))
    angles = [[2.0, 3.0], [1.0, 3.0]] if exclude else [[1.0, 2.0, 3.0]] * 2
    expected = sum(info_nce(math.cos(0.1), [math.cos(a) for a in own]) for own in angles) / 2
    assert result.local.item() == pytest.approx(expected, abs=1e-6)
    assert result.metrics["negatives"].item() == len(angles[0])


def test_only_the_anchors_own_location_counts():
    model = closed_form(beta=0.0)
    remember(model, 0, [0.0, 0.1], [1, 2])
    assert step(model, query=(0.0, 0.0), key=(0.1, 0.1), neighbours=None).local.item() == 0


@pytest.mark.parametrize("same", [True, False])
def test_negatives_from_the_batch(same):
    model = closed_form(beta=0.0, batch_negatives=True)
    subjects = (7, 7) if same else (7, 8)
    result = step(model, query=(0.0, 1.0), key=(0.2, 0.9), neighbours=None, subjects=subjects)
    expected = (info_nce(math.cos(0.2), [math.cos(0.9)]) + info_nce(math.cos(0.1), [math.cos(0.8)])) / 2
    assert result.local.item() == pytest.approx(0.0 if same else expected, abs=1e-6)


def test_top1_is_the_share_of_positives_before_all_negatives():
    model = closed_form(beta=0.0)
    remember(model, 1, [0.2], [1])
    assert step(model, query=(0.0, 0.2), key=(0.1, 0.6), neighbours=None).metrics["top1"].item() == 0.5


def test_no_neighbours():
    model = closed_form(neighbours_NK=torch.empty(4, 0, dtype=torch.long))
    remember(model, 1, [2.0], [1])
    result = step(model, query=(0.0, 0.0), key=(0.0, 0.0), neighbours=None)
    assert result.global_.item() == 0
    assert result.loss.item() == pytest.approx(info_nce(1.0, [math.cos(2.0)]), abs=1e-6)
    with pytest.raises(ValueError, match="nothing would be learned"):
        closed_form(neighbours_NK=torch.empty(4, 0, dtype=torch.long), local_weight=0.0)


def batch(places: int, scans: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (places, scans, 1, 32, 32, 32)
    views = [torch.rand(shape, generator=generator) * 2 - 1 for _ in range(4)]
    return views[0], views[1], torch.stack(views[2:], dim=1)


def test_momentum_update_precedes_the_keys_and_moves_nothing_else():
    torch.manual_seed(0)
    model = DrasCLR(
        encoder=Encoder(experts=2),
        coordinates_N3=COORDINATES,
        neighbours_NK=NEIGHBOURS,
        queue_size=4,
        momentum=0.9,
    )
    with torch.no_grad():
        for parameter in model.query.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    before = copy.deepcopy(model)
    query, key, around = batch(1, 2, 1)
    result = model(query, key, around, torch.tensor([2]), torch.tensor([0, 1]))
    for new, old, source in zip(
        model.key.parameters(), before.key.parameters(), before.query.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * source, rtol=1e-5, atol=1e-7)
    reference = copy.deepcopy(before.key)
    reference.load_state_dict(dict(model.key.named_parameters()), strict=False)
    with torch.no_grad():
        expected = F.normalize(reference.project(reference.grouped(key, COORDINATES[[2]])), dim=-1)
    torch.testing.assert_close(result.keys_GSD, expected, rtol=0, atol=1e-5)
    model.eval()
    frozen = copy.deepcopy(model.key.state_dict())
    model(query, key, around, torch.tensor([2]), torch.tensor([0, 1]))
    assert all(torch.equal(value, frozen[name]) for name, value in model.key.state_dict().items())


@pytest.mark.parametrize(
    ("conditioning", "settings"),
    [
        ("experts", {"neighbour_aggregation": "attention"}),
        ("experts", {"local_weight": 0.0}),
        ("concat", {"neighbour_aggregation": "sum"}),
        ("none", {"beta": 0.0}),
    ],
    ids=["attention", "global only", "sum, concat", "local only, none"],
)
def test_every_parameter_is_used_and_losses_fall(conditioning, settings):
    torch.manual_seed(0)
    model = DrasCLR(
        encoder=Encoder(experts=2, conditioning=conditioning),
        coordinates_N3=COORDINATES,
        neighbours_NK=NEIGHBOURS,
        queue_size=8,
        **settings,
    )
    locations, subjects = torch.tensor([0, 3]), torch.tensor([0, 1])
    model.memory.enqueue(locations, F.normalize(torch.randn(2, 4, 128), dim=-1), torch.arange(10, 14))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    query, key, around = batch(2, 2, 2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        result = model(query, key, around, locations, subjects)
        result.loss.backward()
        unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert unused == []
        optimizer.step()
        losses.append(result.loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in model.key.parameters())


def test_enqueue_before_backward_is_noticed():
    model = closed_form(beta=0.0)
    remember(model, 1, [1.0, 2.0, 0.5, 0.2], [1, 2, 3, 4])
    result = step(model, query=(0.0, 0.0), key=(0.1, 0.1), neighbours=None)
    model.memory.enqueue(torch.tensor([1]), result.keys_GSD, torch.tensor([7, 8]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.loss.backward()


def test_the_memory_is_neither_parameter_nor_buffer():
    model = closed_form(queue_size=100)
    assert not any(tensor.numel() >= 100 * 128 for tensor in model.state_dict().values())
    assert not any(tensor.numel() >= 100 * 128 for tensor in model.buffers())
