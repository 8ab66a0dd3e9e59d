"""Two real workers that share the scans of a batch compute what one does: losses, keys and gradients, in float64."""

from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder
from drasclr.gather import Gather, share
from tests.gloo import run_group

COORDINATES = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1], [0, 1, -1]])
NEIGHBOURS = torch.tensor([[1, 2], [0, 3], [3, 1], [2, 0]])
LOCATIONS = torch.tensor([2, 0])
SCANS, STEPS, WORLD = 3, 2, 2  # shares of 2 scans and of one
BASE = {"batch_negatives": True, "beta": 0.5}
SETTINGS = {
    "as published": {"neighbour_aggregation": "sum"},
    "attention": {"location_norm": True, "neighbour_aggregation": "attention"},
    "all": {"location_norm": True, "decoupled": True, "variance_weight": 2.0, "exclude_same_subject": False},
    "encode once": {"location_norm": True, "variance_weight": 1.0, "encode_once": True},
    "global only": {"variance_weight": 1.0, "local_weight": 0.0},
}


def step_model(settings: dict, *, gather: Gather | None) -> DrasCLR:
    torch.manual_seed(0)
    model = DrasCLR(
        encoder=Encoder(experts=2, norm="group").double(),
        coordinates_N3=COORDINATES,
        neighbours_NK=NEIGHBOURS,
        queue_size=8,
        gather=gather,
        **(BASE | settings),
    ).double()
    model.memory.keys_NKD = model.memory.keys_NKD.double()
    return model


def train(settings: dict, *, rank: int, world: int) -> dict:
    """Parameters, keys and the mean loss of two steps, of a worker's share of the scans."""
    gather = Gather(rank=rank, world=world, total=SCANS)
    model = step_model(settings, gather=gather if world > 1 else None)
    parallel = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    weight = share(rank, world, SCANS) * world / SCANS
    kept: dict = {"losses": [], "weight": weight / world}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        shape = (4, len(LOCATIONS), SCANS, 1, 32, 32, 32)
        query, key, *near = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
        subjects = torch.tensor([0, 1, 1]) + 10 * step
        own = slice(rank, None, world)
        around = torch.stack(near, 1)[:, :, own]
        if model.encode_once:
            # The anchors 2 and 0 have the neighbours 3, 1 and 1, 2: others are 1 and 3.
            around = torch.stack(near)[:, 0, own]
        result = parallel(query[:, own], key[:, own], around, LOCATIONS, subjects[own])
        optimizer.zero_grad(set_to_none=True)
        (result.loss * weight).backward()
        kept["gradients"] = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        optimizer.step()
        model.memory.enqueue(LOCATIONS, result.keys_GSD, result.subjects_S)
        kept["losses"].append(result.loss.detach())
    kept |= {"parameters": dict(model.named_parameters()), "keys": model.memory.keys_NKD}
    return kept


def refusal(*, rank: int, world: int) -> str:
    """What is said of a batch with one scan in all."""
    model = step_model({"location_norm": True}, gather=Gather(rank=rank, world=world, total=1))
    patches = torch.rand(1, 1 - rank, 1, 32, 32, 32, dtype=torch.float64)
    try:
        model(
            patches,
            patches,
            patches[:, None].expand(1, 2, -1, 1, 32, 32, 32),
            torch.tensor([0]),
            torch.arange(1),
        )
    except ValueError as error:
        return str(error)
    return ""


def local_to_a_worker(*, rank: int) -> dict[str, torch.Tensor]:
    """Gradients where each worker has locations of its own and every scan of them: nothing is gathered."""
    model = step_model({"location_norm": True, "variance_weight": 1.0}, gather=None)
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    patches = torch.rand(4, 2, SCANS, 1, 32, 32, 32, generator=torch.Generator().manual_seed(7)).double()
    own = slice(rank, rank + 1)
    result = parallel(
        patches[0, own],
        patches[1, own],
        patches[2:, own].transpose(0, 1),
        LOCATIONS[own],
        torch.arange(SCANS),
    )
    result.loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def work(rank: int, folder: str) -> None:
    results = {name: train(settings, rank=rank, world=WORLD) for name, settings in SETTINGS.items()}
    results["refusal"] = refusal(rank=rank, world=WORLD)
    results["own locations"] = local_to_a_worker(rank=rank)
    torch.save(results, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("pair")
    run_group(work, WORLD, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_workers_compute_what_one_does(pair, name):
    one = train(SETTINGS[name], rank=0, world=1)
    two = [results[name] for results in pair]
    for step, wanted in enumerate(one["losses"]):
        found = sum(results["losses"][step] * results["weight"] for results in two)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
    for results in two:
        torch.testing.assert_close(results["keys"], one["keys"], rtol=0, atol=1e-11)
        for kind in ("gradients", "parameters"):
            for parameter, wanted in one[kind].items():
                torch.testing.assert_close(
                    results[kind][parameter], wanted, rtol=1e-8, atol=1e-11, msg=f"{kind} of {parameter}"
                )
    assert one["losses"][0] > 0


def test_statistics_of_a_share_alone_would_be_others():
    """What the exact agreement rests on: normalised by its own scans, a worker's loss is another."""
    torch.manual_seed(0)
    query, key, *near = torch.rand(4, 2, SCANS, 1, 32, 32, 32, dtype=torch.float64) * 2 - 1
    found = []
    for scans in (slice(None), slice(0, None, 2)):
        model = step_model({"location_norm": True}, gather=None)
        around = torch.stack(near, 1)[:, :, scans]
        result = model(query[:, scans], key[:, scans], around, LOCATIONS, torch.arange(SCANS)[scans])
        found.append(result.keys_GSD[:, 0])
    assert (found[0] - found[1]).abs().max() > 0.01


def test_one_scan_over_all_workers_is_refused_by_each_of_them(pair):
    for results in pair:
        assert "at least 2 scans" in results["refusal"]


def test_workers_with_locations_of_their_own_need_no_others_statistics(pair):
    model = step_model({"location_norm": True, "variance_weight": 1.0}, gather=None)
    patches = torch.rand(4, 2, SCANS, 1, 32, 32, 32, generator=torch.Generator().manual_seed(7)).double()
    around = patches[2:].transpose(0, 1)
    model(patches[0], patches[1], around, LOCATIONS, torch.arange(SCANS)).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for results in pair:
                found = results["own locations"][name]
                torch.testing.assert_close(found, parameter.grad, rtol=1e-8, atol=1e-11, msg=name)


def test_shares_cover_the_scans():
    for total in range(1, 12):
        gather = Gather(rank=0, world=3, total=total)
        assert sum(gather.counts) == total
        assert max(gather.counts) - min(gather.counts) <= 1
