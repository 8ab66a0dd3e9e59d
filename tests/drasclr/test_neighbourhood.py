"""A step that encodes each patch once computes what the plain step does from the same views."""

from __future__ import annotations

import pytest
import torch

from drasclr import neighbourhood
from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder

#: A ring of six locations: each is the neighbour of two.
RING = torch.tensor([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4]])
COORDINATES = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
SCANS = 2


def model(*, encode_once: bool, norm: str, **settings) -> DrasCLR:
    torch.manual_seed(0)
    made = DrasCLR(
        encoder=Encoder(experts=2, norm=norm).double(),
        coordinates_N3=COORDINATES,
        neighbours_NK=RING,
        queue_size=8,
        batch_negatives=True,
        encode_once=encode_once,
        **settings,
    ).double()
    made.memory.keys_NKD = made.memory.keys_NKD.double()
    return made


def views() -> tuple[torch.Tensor, torch.Tensor]:
    """First and second view at each of the six locations."""
    patches = torch.rand(2, 6, SCANS, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    first, second = patches.double() * 2 - 1
    return first, second


def test_others_are_the_neighbours_that_are_no_anchors():
    anchors = torch.tensor([4, 0, 3])
    around = RING[anchors]
    assert neighbourhood.others(anchors, around).tolist() == [1, 2, 5]
    encoded = torch.cat([anchors, neighbourhood.others(anchors, around)])
    assert torch.equal(encoded[neighbourhood.rows(anchors, around)], around)
    everywhere = torch.arange(6)
    assert neighbourhood.others(everywhere, RING).numel() == 0
    assert torch.equal(neighbourhood.rows(everywhere, RING), RING)


@pytest.mark.parametrize(
    ("anchors", "norm", "settings"),
    [
        ([4, 0, 3], "group", {"location_norm": True, "neighbour_aggregation": "attention"}),
        ([4, 0, 3], "group", {"local_weight": 0.0, "neighbour_aggregation": "sum"}),
        # Each location serves as a neighbour twice: batch statistics are those of the anchors.
        ([0, 1, 2, 3, 4, 5], "batch", {}),
    ],
)
def test_loss_and_gradients_are_those_of_the_same_views_encoded_for_each_anchor(anchors, norm, settings):
    first, second = views()
    at, subjects = torch.tensor(anchors), torch.arange(SCANS)
    others = neighbourhood.others(at, RING[at])
    gradients = []
    for encode_once, near in ((False, first[RING[at]]), (True, first[others])):
        made = model(encode_once=encode_once, norm=norm, **settings)
        contrast = made(first[at], second[at], near, at, subjects)
        contrast.loss.backward()
        found = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
        gradients.append((contrast.loss.detach(), contrast.keys_GSD, found))
    (loss, keys, plain), (loss_once, keys_once, once) = gradients
    assert loss > 0.5
    torch.testing.assert_close(loss_once, loss, rtol=0, atol=1e-11)
    torch.testing.assert_close(keys_once, keys, rtol=0, atol=1e-11)
    assert plain.keys() == once.keys()
    for name, wanted in plain.items():
        torch.testing.assert_close(once[name], wanted, rtol=1e-7, atol=1e-10, msg=name)


def test_each_patch_is_encoded_once_with_a_gradient():
    first, second = views()
    made = model(encode_once=True, norm="group")
    seen: list[int] = []
    made.query.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    at = torch.tensor([4, 0, 3])
    made(first[at], second[at], first[[1, 2, 5]], at, torch.arange(SCANS))
    assert seen == [6 * SCANS]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="beta > 0"):
        model(encode_once=True, norm="group", beta=0.0)
    first, second = views()
    at = torch.tensor([4, 0, 3])
    with pytest.raises(ValueError, match="3 other neighbours are needed, got 2"):
        model(encode_once=True, norm="group")(first[at], second[at], first[:2], at, torch.arange(SCANS))
