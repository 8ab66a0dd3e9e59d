"""The encoder equals the published computation: values, batch statistics and gradients, mixed locations or not."""

import copy

import pytest
import torch

from drasclr.encoder import Encoder
from drasclr.published import import_published
from tests.published import SlowEncoder, checkpoint

MIXTURES = {
    "one location": [0, 0, 0, 0],
    "all different": [0, 1, 2, 3],
    "mixed, uneven": [2, 0, 0, 2, 1, 0],
    "mixed, even": [1, 0, 0, 1],
}


@pytest.fixture(scope="module")
def published() -> SlowEncoder:
    torch.manual_seed(0)
    slow = SlowEncoder(experts=8).double()
    with torch.no_grad():
        for name, parameter in slow.named_parameters():
            if ".bn" in name or name.startswith("bn"):
                parameter.uniform_(0.5, 1.5) if name.endswith("weight") else parameter.uniform_(-0.5, 0.5)
        for name, buffer in slow.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.2, 0.2)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return slow


def imported(slow: SlowEncoder, tmp_path) -> Encoder:
    torch.save(checkpoint(slow), tmp_path / "checkpoint.pth.tar")
    return import_published(tmp_path / "checkpoint.pth.tar")


def batch(mixture: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    places = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 2 - 1
    patches = torch.rand(len(mixture), 1, 32, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1
    return patches, places[mixture]


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_float64_features_projections_statistics_and_gradients(published, tmp_path, mixture, training):
    slow = copy.deepcopy(published).train(training)
    fast = imported(published, tmp_path).train(training)
    patches, locations = batch(mixture)
    inputs = [patches.clone().requires_grad_() for _ in range(2)]

    projected, features = slow(inputs[0], locations)
    fast_features = fast(inputs[1], locations)
    torch.testing.assert_close(fast_features, features, rtol=0, atol=1e-10)
    torch.testing.assert_close(fast.project(fast_features), projected, rtol=0, atol=1e-10)

    probe = torch.linspace(-1, 1, features.numel(), dtype=torch.float64).view_as(features).sin()
    ((features * probe).sum() + projected.square().sum()).backward()
    ((fast_features * probe).sum() + fast.project(fast_features).square().sum()).backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-9, atol=1e-10)
    # Gradients and running statistics travel through the checkpoint format, so that names need no translation here.
    expected = copy.deepcopy(slow)
    for parameter, source in zip(expected.parameters(), slow.parameters(), strict=True):
        parameter.data = source.grad
    gradients = imported(expected, tmp_path)
    for (name, parameter), want in zip(fast.named_parameters(), gradients.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad, want.data, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )
    for (name, buffer), want in zip(fast.named_buffers(), imported(slow, tmp_path).buffers(), strict=True):
        torch.testing.assert_close(buffer, want, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("training", "tolerance"), [(False, 1e-5), (True, 3e-5)], ids=["eval", "train"])
@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_float32(published, tmp_path, mixture, training, tolerance):
    exact = copy.deepcopy(published).train(training)
    fast = imported(published, tmp_path).float().train(training)
    patches, locations = batch(mixture)
    with torch.no_grad():
        _, features = exact(patches, locations)
        fast_features = fast(patches.float(), locations.float())
    torch.testing.assert_close(fast_features.double(), features, rtol=0, atol=tolerance)


def test_grouped_is_the_same_as_mixed(published, tmp_path):
    fast = imported(published, tmp_path).train()
    patches, locations = batch([0, 0, 1, 1, 2, 2])
    with torch.no_grad():
        mixed = fast(patches, locations)
        grouped = fast.grouped(patches.unflatten(0, (3, 2)), locations[::2])
    torch.testing.assert_close(grouped.flatten(0, 1), mixed, rtol=0, atol=1e-12)
