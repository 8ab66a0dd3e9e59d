import math

import pytest
import torch
import torch.nn.functional as F

from drasclr import monitor
from drasclr.encoder import Encoder


def test_alignment_and_uniformity_of_known_configurations():
    opposite = torch.tensor([[[1.0, 0], [-1, 0]]])
    assert monitor.alignment(opposite, opposite).item() == 0
    assert monitor.alignment(opposite, opposite.flip(1)).item() == pytest.approx(4)
    assert monitor.uniformity(opposite).item() == pytest.approx(-8)
    assert monitor.uniformity(torch.tensor([[[1.0, 0], [1, 0]]])).item() == pytest.approx(0)
    assert math.isnan(monitor.uniformity(opposite[:, :1]).item())


@pytest.mark.parametrize("rows", [6, 200])
def test_effective_rank_tells_collapse_from_spread(rows):
    torch.manual_seed(0)
    spread = torch.randn(rows, 128)
    one_line = torch.randn(rows, 1) * torch.randn(1, 128)
    assert monitor.effective_rank(one_line).item() == pytest.approx(1, abs=1e-2)
    assert monitor.effective_rank(spread).item() > 0.7 * min(rows - 1, 128)
    turned = F.normalize(spread, dim=1) @ torch.linalg.qr(torch.randn(128, 128))[0]
    expected = monitor.effective_rank(F.normalize(spread, dim=1)).item()
    assert monitor.effective_rank(turned).item() == pytest.approx(expected, rel=1e-3)


def test_top1_counts_only_rows_with_a_negative():
    negative = torch.tensor([[0.1, -math.inf], [0.9, 0.2], [-math.inf, -math.inf]])
    assert monitor.top1(torch.tensor([0.5, 0.5, 0.5]), negative).item() == 0.5


def test_expert_entropy_is_low_when_one_expert_does_all():
    encoder, locations = Encoder(experts=4), torch.rand(5, 3)
    with torch.no_grad():
        for _, layer in encoder.stages():
            layer.conv.routing.weight.zero_()
            layer.conv.routing.bias.copy_(torch.zeros(4))
    assert monitor.expert_entropy(encoder, locations).item() == pytest.approx(1)
    with torch.no_grad():
        for _, layer in encoder.stages():
            layer.conv.routing.bias.copy_(torch.tensor([20.0, -20, -20, -20]))
    assert monitor.expert_entropy(encoder, locations).item() < 0.01


def test_the_rank_of_what_is_not_finite_is_not_a_number():
    embeddings = torch.randn(6, 8)
    embeddings[2, 3] = torch.inf
    assert torch.isnan(monitor.effective_rank(embeddings))
