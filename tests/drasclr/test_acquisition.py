"""Breath, dose and reconstruction kernel: against their physical models, a patch at a time and in a batch."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from drasclr import acquisition
from drasclr.acquisition import add_noise, breathe, gaussian, reconstruct

ZERO = -1024.0
GENERATOR = torch.Generator().manual_seed(0)


def breathed(hu: torch.Tensor, volume: float) -> torch.Tensor:
    x = (hu.double() - ZERO)[None, None, None].contiguous()
    breathe(x, torch.tensor([volume], dtype=torch.float64), zero=ZERO)
    return x[0, 0, 0] + ZERO


@pytest.mark.parametrize("volume", [0.7, 0.9, 1.3])
def test_density_of_lung_goes_with_the_inverse_of_volume(volume):
    lung = torch.linspace(-1000, -700, 31)
    torch.testing.assert_close(breathed(lung, volume), -1000 + (lung.double() + 1000) / volume)
    tissue = torch.tensor([-300.0, -50, 40, 240])
    assert torch.equal(breathed(tissue, volume), tissue.double())


@pytest.mark.parametrize("volume", [1 / 1.5, 1.5])
def test_a_denser_voxel_stays_denser_and_the_change_is_smooth(volume):
    hu = torch.arange(-1000, 240, 0.5, dtype=torch.float64)
    result = breathed(hu, volume)
    steps = result.diff()
    assert (steps > 0).all()
    assert steps.diff().abs().max() < 0.02


def noise_of(std: float, grain: float, *, count: int = 40) -> torch.Tensor:
    x = torch.zeros(count, 24, 24, 24)
    add_noise(x, torch.full((count,), std), torch.full((count,), grain), torch.arange(count))
    return x


@pytest.mark.parametrize("grain", [0.0, 0.6, 1.2])
def test_noise_has_its_level_whatever_its_grain(grain):
    noise = noise_of(30.0, grain)
    inside = noise[:, :, 4:-4, 4:-4]
    assert inside.std().item() == pytest.approx(30, rel=0.02)
    assert abs(inside.mean().item()) < 0.5


def test_noise_has_the_spectrum_of_its_filter_in_the_plane_and_is_white_across_slices():
    noise = noise_of(30.0, 1.0)[:, :, 4:-4, 4:-4]

    def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
        return float(np.corrcoef(first.flatten(), second.flatten())[0, 1])

    taps = gaussian(torch.tensor([1.0]))[0].double().numpy()
    expected = np.correlate(taps, taps, "full") / (taps**2).sum()
    centre = len(expected) // 2
    for lag in (1, 2):
        along_w = correlation(noise[..., lag:], noise[..., :-lag])
        along_h = correlation(noise[:, :, lag:], noise[:, :, :-lag])
        assert along_w == pytest.approx(expected[centre + lag], abs=0.03)
        assert along_h == pytest.approx(expected[centre + lag], abs=0.03)
    assert abs(correlation(noise[:, 1:], noise[:, :-1])) < 0.03


def test_a_kernel_equals_scipys_filter():
    patch = torch.rand(1, 8, 16, 20, generator=GENERATOR, dtype=torch.float64) * 1000
    blurred = patch.clone()
    reconstruct(blurred, torch.tensor([0.9], dtype=torch.float64))
    radius = acquisition.RADIUS
    expected = ndimage.gaussian_filter(
        patch[0].numpy(), (0, 0.9, 0.9), radius=(0, radius, radius), mode="nearest"
    )
    np.testing.assert_allclose(blurred[0].numpy(), expected, rtol=1e-12)
    sharp = patch.clone()
    reconstruct(sharp, torch.tensor([-0.6], dtype=torch.float64))
    expected = patch[0].numpy()
    for axis in (1, 2):
        blur = ndimage.gaussian_filter1d(
            expected, acquisition.UNSHARP, axis=axis, radius=radius, mode="nearest"
        )
        expected = 1.6 * expected - 0.6 * blur
    np.testing.assert_allclose(sharp[0].numpy(), expected, rtol=1e-10)


def test_kernels_keep_the_mean_density_and_move_the_share_of_dark_voxels():
    lung = torch.full((3, 16, 32, 32), -870 - ZERO) + torch.randn(3, 16, 32, 32, generator=GENERATOR) * 60
    changed = lung.clone()
    reconstruct(changed, torch.tensor([1.0, 0.0, -0.8]))
    torch.testing.assert_close(changed.mean((1, 2, 3)), lung.mean((1, 2, 3)), rtol=0, atol=1.0)
    dark = ((changed + ZERO) < -950).float().mean((1, 2, 3))
    assert dark[0] < dark[1] < dark[2]
    assert torch.equal(changed[1], lung[1])


def test_neutral_values_change_nothing():
    patches = torch.rand(2, 8, 8, 8, generator=GENERATOR) * 1000
    kept = patches.clone()
    breathe(patches, torch.ones(2), zero=ZERO)
    add_noise(patches, torch.zeros(2), torch.ones(2), torch.arange(2))
    reconstruct(patches, torch.zeros(2))
    assert torch.equal(patches, kept)


def test_a_batch_is_its_patches_one_by_one():
    patches = torch.rand(5, 8, 12, 10, generator=GENERATOR) * 1000
    volume = torch.tensor([1.0, 0.8, 1.2, 1.0, 0.9])
    std, grain, keys = torch.tensor([0.0, 20, 0, 5, 40]), torch.rand(5, generator=GENERATOR), torch.arange(5)
    kernel = torch.tensor([0.7, 0.0, -0.5, 1.3, -0.1])

    def change(x: torch.Tensor, at: slice) -> torch.Tensor:
        x = x.clone()
        breathe(x, volume[at], zero=ZERO)
        add_noise(x, std[at], grain[at], keys[at])
        reconstruct(x, kernel[at])
        return x

    together = change(patches, slice(None))
    for index in range(5):
        at = slice(index, index + 1)
        torch.testing.assert_close(together[at], change(patches[at], at), rtol=0, atol=1e-3)


def test_the_widest_filter_fits_its_radius():
    taps = gaussian(torch.tensor([acquisition.MAX_BLUR, 0.0], dtype=torch.float64))
    assert taps[0, 0] / taps[0].max() < 0.012
    identity = torch.zeros(2 * acquisition.RADIUS + 1, dtype=torch.float64)
    identity[acquisition.RADIUS] = 1
    assert torch.equal(taps[1], identity)
