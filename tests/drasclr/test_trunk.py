"""Parts of a batch: every division gives the same result, and single precision stays close to double."""

import copy
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from drasclr import trunk
from drasclr.encoder import Encoder


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 17, 31])
def test_cuts_cover_the_samples_and_leave_no_single_one(count):
    for exponent in range(1, 6):
        sizes = trunk.cuts(count, 2**exponent)
        assert sum(sizes) == count
        assert count == 1 or min(sizes) > 1
        assert max(sizes) <= 2**exponent + 1


@pytest.mark.parametrize("samples", [1, 3, 5])
def test_boundaries_of_coarse_parts_are_boundaries_of_fine_parts(samples):
    fine = set(torch.tensor(trunk.cuts(4 * samples + 1, 2)).cumsum(0).tolist())
    coarse = set(torch.tensor(trunk.cuts(4 * samples + 1, 8)).cumsum(0).tolist())
    assert coarse <= fine


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(3)
    return Encoder(experts=3).train()


@pytest.mark.parametrize("shape", [(1, 3), (3, 2)])
def test_gradients_and_running_statistics_in_single_precision(encoder, shape):
    places, samples = shape
    exact = copy.deepcopy(encoder).double()
    fast = copy.deepcopy(encoder)
    patches = torch.rand(places, samples, 1, 32, 32, 32) * 2 - 1
    locations = torch.rand(places, 3) * 2 - 1
    probe = torch.randn(places, samples, 128)
    x, x64 = patches.clone().requires_grad_(), patches.double().requires_grad_()
    (fast.grouped(x, locations) * probe).sum().backward()
    (exact.grouped(x64, locations.double()) * probe.double()).sum().backward()
    assert (x.grad.double() - x64.grad).norm() < 1e-4 * x64.grad.norm()
    for (name, parameter), want in zip(fast.named_parameters(), exact.parameters(), strict=True):
        if want.grad is None:
            assert parameter.grad is None
        elif name.endswith("conv.bias"):  # normalisation takes every bias away: its gradient is rounding only
            assert parameter.grad.norm() < 1e-3
        else:
            assert (parameter.grad.double() - want.grad).norm() < 1e-4 * want.grad.norm(), name
    for (name, buffer), want in zip(fast.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(buffer.double(), want.double(), rtol=1e-5, atol=1e-5, msg=name)


def test_small_parts_give_the_same_as_one_part(encoder, monkeypatch):
    patches, locations = torch.rand(2, 5, 1, 32, 32, 32) * 2 - 1, torch.rand(2, 3) * 2 - 1
    results = []
    for values in (1 << 19, 1 << 26):
        monkeypatch.setattr(trunk, "PART_VALUES", values)
        model = copy.deepcopy(encoder)
        features = model.grouped(patches, locations)
        features.square().sum().backward()
        results.append((features.detach(), model.layers[0].conv.weight.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=2e-5)
    torch.testing.assert_close(
        results[0][1], results[1][1], rtol=1e-3, atol=1e-3 * results[1][1].abs().max().item()
    )


def test_folded_inference_equals_evaluation_with_gradients(encoder):
    model = copy.deepcopy(encoder)
    patches, locations = torch.rand(9, 1, 32, 32, 32) * 2 - 1, torch.rand(2, 3)[[0, 1, 1, 0, 0, 1, 0, 0, 0]]
    model(patches, locations)  # running statistics other than the initial ones
    model.eval()
    expected = model(patches, locations).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(patches, locations), expected, rtol=0, atol=2e-6)
        model.double()
        patches, locations = patches.double(), locations.double()
        folded = model(patches, locations)
    torch.testing.assert_close(folded, model(patches, locations), rtol=0, atol=1e-10)


def test_many_locations_with_one_patch_each_equal_single_calls(encoder, monkeypatch):
    monkeypatch.setattr("drasclr.encoder.ONE_EACH", 3)
    model = copy.deepcopy(encoder).eval()
    patches, locations = torch.rand(7, 1, 32, 32, 32) * 2 - 1, torch.rand(7, 3)
    with torch.no_grad():
        expected = torch.cat([model(patches[[i]], locations[[i]]) for i in range(7)])
        torch.testing.assert_close(model(patches, locations), expected, rtol=0, atol=1e-5)
        grouped = model.grouped(patches[:, None], locations)[:, 0]
        torch.testing.assert_close(grouped, expected, rtol=0, atol=1e-5)


class LiveBytes(TorchDispatchMode):
    """How much memory of tensors that were made within is in use, at present and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        known = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in known and key not in self.sizes:
                    self.sizes[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.free, key)
        self.peak = max(self.peak, self.now)
        return result

    def free(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def test_the_momentum_encoder_keeps_no_activations(encoder):
    """In training mode without gradients, memory is that of two layers, not of all; results are the same."""
    patches, locations = torch.rand(2, 6, 1, 32, 32, 32) * 2 - 1, torch.rand(2, 3) * 2 - 1
    results, used = [], []
    for mode in ("trained", "momentum encoder", "no_grad"):
        model = copy.deepcopy(encoder).requires_grad_(mode != "momentum encoder")
        with LiveBytes() as live, torch.set_grad_enabled(mode != "no_grad"):
            results.append(model.grouped(patches, locations))
        used.append((live.now, live.peak))
        assert results[-1].requires_grad == (mode == "trained")
        for one, other in zip(encoder_buffers(model), encoder_buffers(encoder), strict=True):
            assert not torch.equal(one, other)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    output = results[0].numel() * 4
    outputs = sum(2 * 12 * 4 * c * (32 // s) ** 3 for c, s in ((8, 1), (8, 2), (16, 2), (16, 2), (16, 4)))
    assert used[0][0] > outputs  # activations of the first layers, before and behind the normalisation
    for now, peak in used[1:]:
        assert now < 2**20 + output
        assert peak < 0.6 * used[0][1]


def encoder_buffers(model: Encoder) -> list[torch.Tensor]:
    return [layer.norm.running_mean for _, layer in model.stages()]
