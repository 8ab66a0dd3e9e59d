"""Replay from (seed, epoch, scan, location, view) alone, and the published distribution."""

import math

import numpy as np
import pytest
import torch
from monai.transforms import RandAdjustContrast, RandAffine, RandGaussianNoise
from scipy import stats

from drasclr import augment

SCANS, LOCATIONS = torch.arange(40), torch.arange(50)


def smooth_patch() -> torch.Tensor:
    axis = torch.arange(32.0)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return -500 + 250 * torch.sin(z / 5) + 150 * torch.cos(y / 7 + 1) - 3 * x


def test_draws_do_not_depend_on_the_batch():
    whole = augment.draw(seed=3, epoch=2, scans=SCANS, locations=LOCATIONS, view=1)
    part = augment.draw(seed=3, epoch=2, scans=SCANS[[9, 4]], locations=LOCATIONS[[30, 2, 7]], view=1)
    for name, value in vars(part).items():
        assert torch.equal(value, getattr(whole, name)[[30, 2, 7]][:, [9, 4]]), name


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 3}, {"view": 0}])
def test_another_seed_epoch_or_view_is_independent(change):
    base = {"seed": 3, "epoch": 2, "view": 1}
    first = augment.draw(scans=SCANS, locations=LOCATIONS, **base).rotation_GS3.flatten()
    second = augment.draw(scans=SCANS, locations=LOCATIONS, **(base | change)).rotation_GS3.flatten()
    assert stats.pearsonr(first, second).pvalue > 1e-3


def test_published_distribution():
    p = augment.draw(seed=0, epoch=0, scans=SCANS, locations=LOCATIONS, view=0)
    uniform = {
        "rotation": (p.rotation_GS3, -math.pi / 18, math.pi / 18),
        "translation": (p.translation_GS3, -12, 12),
        "scale": (p.scale_GS3, 0.9, 1.1),
    }
    for name, (values, low, high) in uniform.items():
        for axis in range(3):
            result = stats.kstest(values[..., axis].flatten(), "uniform", (low, high - low))
            assert result.pvalue > 1e-3, (name, axis)
    assert stats.binomtest(int((p.noise_std_GS > 0).sum()), p.noise_std_GS.numel(), 0.25).pvalue > 1e-3
    assert stats.binomtest(int((p.gamma_GS != 1).sum()), p.gamma_GS.numel(), 0.25).pvalue > 1e-3
    assert stats.kstest(p.noise_std_GS[p.noise_std_GS > 0], "uniform", (0, 50)).pvalue > 1e-3
    assert stats.kstest(p.gamma_GS[p.gamma_GS != 1], "uniform", (0.5, 4)).pvalue > 1e-3
    columns = torch.cat([p.rotation_GS3, p.translation_GS3, p.scale_GS3, p.noise_std_GS[..., None]], dim=-1)
    correlation = np.corrcoef(columns.flatten(0, 1).T)
    assert np.abs(correlation - np.eye(10)).max() < 0.1
    assert len(p.noise_key_GS.unique()) == p.noise_key_GS.numel()


def test_noise_is_standard_normal_and_white():
    noise = augment._normal(torch.tensor([1, 2, -5]), count=32**3)
    for row in noise:
        assert stats.kstest(row, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise)[np.triu_indices(3, 1)]).max() < 0.02
    assert abs(np.corrcoef(noise[0, 1:], noise[0, :-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[0, : 32**3 // 2], noise[0, 32**3 // 2 :])[0, 1]) < 0.03


def only(**values) -> augment.Parameters:
    neutral = {
        "rotation_GS3": torch.zeros(1, 1, 3),
        "translation_GS3": torch.zeros(1, 1, 3),
        "scale_GS3": torch.ones(1, 1, 3),
        "noise_std_GS": torch.zeros(1, 1),
        "gamma_GS": torch.ones(1, 1),
        "noise_key_GS": torch.ones(1, 1, dtype=torch.long),
    }
    return augment.Parameters(**(neutral | values))


def test_neutral_parameters_only_normalise():
    patch = smooth_patch()[None, None].to(torch.int16)
    result = augment.apply(patch, only())
    torch.testing.assert_close(result, augment.normalise(patch), rtol=0, atol=1e-5)
    assert result.min() >= -1
    assert result.max() <= 1
    window = augment.normalise(torch.tensor([-2000.0, -1024, -392, 240, 1000]).view(1, 1, 5))
    assert window.flatten().tolist() == [-1, -1, 0, 1, 1]


@pytest.mark.parametrize("seed", range(4))
def test_affine_equals_monai_with_the_same_parameters(seed):
    generator = np.random.default_rng(seed)
    rotation, shift = generator.uniform(-0.17, 0.17, 3), generator.uniform(-12, 12, 3)
    scale = generator.uniform(0.9, 1.1, 3)
    monai = RandAffine(prob=1.0, mode="bilinear", padding_mode="border", spatial_size=(32, 32, 32))
    # MONAI draws offsets of the scale about 1; degenerate ranges make it draw our values.
    monai.rand_affine_grid.rotate_range = [(v, v) for v in rotation]
    monai.rand_affine_grid.translate_range = [(v, v) for v in shift]
    monai.rand_affine_grid.scale_range = [(v - 1, v - 1) for v in scale]
    patch = smooth_patch()
    expected = torch.as_tensor(np.asarray(monai((patch + 1024)[None])))[0] / 632 - 1
    parameters = only(
        rotation_GS3=torch.tensor(rotation, dtype=torch.float32)[None, None],
        translation_GS3=torch.tensor(shift, dtype=torch.float32)[None, None],
        scale_GS3=torch.tensor(scale, dtype=torch.float32)[None, None],
    )
    torch.testing.assert_close(
        augment.apply(patch[None, None], parameters)[0, 0, 0], expected, rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0, 4.5])
def test_contrast_equals_monai_with_the_same_gamma(gamma):
    patch = smooth_patch()
    monai = RandAdjustContrast(prob=1.0, gamma=(gamma, gamma + 1e-9))
    expected = torch.as_tensor(np.asarray(monai((patch + 1024)[None])))[0] / 632 - 1
    result = augment.apply(patch[None, None], only(gamma_GS=torch.full((1, 1), gamma)))
    torch.testing.assert_close(result[0, 0, 0], expected, rtol=0, atol=1e-4)


def test_results_are_distributed_as_monais():
    """Mean and spread of whole augmented patches, ours against the published pipeline."""
    patch, count = smooth_patch(), 300
    monai = [
        RandAffine(
            prob=1.0,
            mode="bilinear",
            spatial_size=(32, 32, 32),
            translate_range=(12,) * 3,
            rotate_range=(math.pi / 18,) * 3,
            scale_range=(0.1,) * 3,
            padding_mode="border",
        ),
        RandGaussianNoise(prob=0.25, std=50),
        RandAdjustContrast(prob=0.25),
    ]
    theirs = []
    for transform in monai:
        transform.set_random_state(0)
    for _ in range(count):
        x = (patch + 1024)[None]
        for transform in monai:
            x = transform(x)
        theirs.append(torch.as_tensor(np.asarray(x)) / 632 - 1)
    parameters = augment.draw(seed=0, epoch=0, scans=torch.arange(count), locations=torch.tensor([5]), view=0)
    ours = augment.apply(patch.expand(1, count, 32, 32, 32), parameters)[0]
    for measure in (
        torch.mean,
        torch.std,
        lambda x: x[..., 16, 16, 16].mean(),
        lambda x: x.diff(dim=-1).abs().mean(),
    ):
        pair = [[measure(x).item() for x in group] for group in (ours, theirs)]
        assert stats.ks_2samp(*pair).pvalue > 1e-3


def test_apply_is_pure_and_independent_of_the_batch():
    patches = torch.randint(-1100, 300, (2, 3, 32, 32, 32), dtype=torch.int16)
    kept = patches.clone()
    scans, locations = torch.tensor([4, 8, 15]), torch.tensor([1, 6])
    together = augment.apply(patches, augment.draw(seed=1, epoch=0, scans=scans, locations=locations, view=0))
    alone = augment.apply(
        patches[1:, 2:], augment.draw(seed=1, epoch=0, scans=scans[2:], locations=locations[1:], view=0)
    )
    torch.testing.assert_close(together[1, 2], alone[0, 0], rtol=0, atol=1e-6)
    assert torch.equal(patches, kept)


@pytest.mark.parametrize("size", [(32, 32, 32), (8, 12, 10)])
def test_sampling_by_planes_equals_sampling_at_once(size):
    parameters = augment.draw(seed=5, epoch=0, scans=torch.arange(6), locations=torch.arange(3), view=0)
    theta = augment._theta(parameters, size=torch.Size(size))
    noise = torch.randint(0, 1264, (18, *size), generator=torch.Generator().manual_seed(0)).float()
    smooth = (noise.cumsum(1) / 8 % 1264).contiguous()
    far = theta.clone()
    far[:, :, 3] += 3  # wholly beyond the edge
    for patches in (noise, smooth):
        for positions in (theta, far):
            torch.testing.assert_close(
                augment._resample_by_planes(patches, positions),
                augment._resample_at_once(patches.double(), positions.double()).float(),
                rtol=0,
                atol=0.2,  # of 1264 HU from one voxel to the next
            )
