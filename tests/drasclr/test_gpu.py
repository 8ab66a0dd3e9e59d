"""On a CUDA device: the same numbers as on the CPU, and a step in bfloat16."""

import copy

import pytest
import torch

from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_features_equal_those_of_the_cpu(training):
    torch.manual_seed(0)
    encoder = Encoder().double().train(training)
    there = copy.deepcopy(encoder).cuda()
    patches = torch.rand(6, 1, 32, 32, 32, dtype=torch.float64)
    locations = torch.rand(3, 3, dtype=torch.float64)[[0, 1, 1, 2, 0, 0]]
    with torch.no_grad():
        torch.testing.assert_close(
            there(patches.cuda(), locations.cuda()).cpu(), encoder(patches, locations), rtol=0, atol=1e-9
        )


def test_a_bfloat16_step():
    torch.manual_seed(0)
    model = DrasCLR(
        encoder=Encoder(),
        coordinates_N3=torch.rand(4, 3),
        neighbours_NK=torch.tensor([[1], [2], [3], [0]]),
        queue_size=8,
        batch_negatives=True,
    ).cuda()
    model.memory.to("cuda")
    views = torch.rand(3, 2, 4, 1, 32, 32, 32, device="cuda") * 2 - 1
    locations, subjects = torch.tensor([0, 2]), torch.arange(4)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        result = model(views[0], views[1], views[2][:, None], locations, subjects)
    result.loss.backward()
    model.memory.enqueue(locations, result.keys_GSD, subjects)
    assert result.loss.dtype == torch.float32
    assert torch.isfinite(result.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.query.parameters())
    assert model.memory.filled(locations).tolist() == [4, 4]
