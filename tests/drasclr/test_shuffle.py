"""Two real workers: the step under DistributedDataParallel, and key shuffling."""

import torch
from torch.nn.parallel import DistributedDataParallel

from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder
from drasclr.shuffle import encode_shuffled
from tests.gloo import run_group

COORDINATES = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1], [0, 1, -1]])
NEIGHBOURS = torch.tensor([[1], [0], [3], [2]])


def data(rank: int, *lead: int) -> torch.Tensor:
    return torch.rand(*lead, 1, 32, 32, 32, generator=torch.Generator().manual_seed(rank)) * 2 - 1


def work(rank: int, folder: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(experts=2)
    model = DrasCLR(
        encoder=encoder,
        coordinates_N3=COORDINATES,
        neighbours_NK=NEIGHBOURS,
        queue_size=8,
        neighbour_aggregation="attention",
        shuffle_keys=True,
    )
    locations = torch.tensor([0, 2] if rank == 0 else [1, 3])
    # In evaluation mode company does not matter, so shuffled features must be the plain ones, in their order.
    encoder.eval()
    patches = data(rank, 2, 4)
    with torch.no_grad():
        shuffled = encode_shuffled(encoder, patches, COORDINATES[locations])
        torch.testing.assert_close(
            shuffled, encoder.grouped(patches, COORDINATES[locations]), rtol=0, atol=1e-5
        )
    model.train()
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(2):
        subjects = torch.arange(2) + 10 * rank + 100 * step
        optimizer.zero_grad(set_to_none=True)
        result = parallel(
            data(rank, 2, 2), data(rank + 5, 2, 2), data(rank + 9, 2, 1, 2), locations, subjects
        )
        result.loss.backward()
        optimizer.step()
        model.memory.enqueue(locations, result.keys_GSD, subjects)
    own = {
        "parameters": dict(model.named_parameters()),
        "loss": result.loss.detach(),
        "filled": model.memory.count_N,
    }
    torch.save(own, f"{folder}/{rank}.pt")


def test_two_workers(tmp_path):
    run_group(work, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][name]), name
    assert first["loss"] > 0
    assert first["loss"] != second["loss"]
    # Each worker remembers the keys of its own locations only.
    assert first["filled"].tolist() == [4, 0, 4, 0]
    assert second["filled"].tolist() == [0, 4, 0, 4]
