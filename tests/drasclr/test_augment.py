"""Replay from (seed, epoch, scan, location, view) alone, and the published distribution."""

import functools
import hashlib
import math

import numpy as np
import pytest
import torch
from monai.transforms import RandAdjustContrast, RandAffine, RandGaussianNoise
from scipy import stats

from drasclr import augment
from drasclr.augment import Strengths

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


def only(**values) -> augment.Parameters:
    neutral = {
        "rotation_GS3": torch.zeros(1, 1, 3),
        "translation_GS3": torch.zeros(1, 1, 3),
        "scale_GS3": torch.ones(1, 1, 3),
        "noise_std_GS": torch.zeros(1, 1),
        "gamma_GS": torch.ones(1, 1),
        "noise_key_GS": torch.ones(1, 1, dtype=torch.long),
        "volume_GS": torch.ones(1, 1),
        "dose_std_GS": torch.zeros(1, 1),
        "grain_GS": torch.zeros(1, 1),
        "dose_key_GS": torch.ones(1, 1, dtype=torch.long),
        "kernel_GS": torch.zeros(1, 1),
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


# Digests of what the published settings drew before others were added: runs that are resumed draw on from them.
DRAWN = {
    "rotation_GS3": "6eb9b6748efa6c52",
    "translation_GS3": "7162647a94d8cfc3",
    "scale_GS3": "50d5ad4871c43c03",
    "noise_std_GS": "168ed1331372d32f",
    "gamma_GS": "aceea32883b112be",
    "noise_key_GS": "0b9245b47fd5a812",
}
EVERYTHING = Strengths(
    rotation=0.3,
    translation=4.0,
    scale=0.2,
    flip_probability=0.5,
    noise_probability=0.5,
    noise_std=20.0,
    gamma_probability=0.5,
    gamma=(0.8, 1.25),
    blur=1.2,
    sharpen=0.8,
    dose_std=60.0,
    grain=1.0,
    breath=0.3,
)


@pytest.mark.parametrize("strengths", [{}, {"strengths": EVERYTHING}, {"strengths": Strengths()}])
def test_published_draws_are_what_they_were(strengths):
    p = augment.draw(seed=3, epoch=2, scans=SCANS, locations=LOCATIONS, view=1, **strengths)
    found = {
        name: hashlib.sha256(getattr(p, name).contiguous().numpy().tobytes()).hexdigest()[:16]
        for name in DRAWN
    }
    if strengths.get("strengths") is EVERYTHING:
        assert found["noise_key_GS"] == DRAWN["noise_key_GS"]
        assert len({*found.values(), *DRAWN.values()}) == 11
    else:
        assert found == DRAWN


def test_what_is_not_published_is_off():
    p = augment.draw(seed=3, epoch=2, scans=SCANS, locations=LOCATIONS, view=1)
    assert (p.scale_GS3 > 0).all()
    assert (p.volume_GS == 1).all()
    for value in (p.kernel_GS, p.dose_std_GS, p.grain_GS):
        assert (value == 0).all()


def test_other_strengths_scale_the_same_draws():
    first = augment.draw(seed=3, epoch=2, scans=SCANS, locations=LOCATIONS, view=1)
    other = augment.draw(
        seed=3,
        epoch=2,
        scans=SCANS,
        locations=LOCATIONS,
        view=1,
        strengths=Strengths(translation=3.0, noise_std=10.0, breath=0.2),
    )
    torch.testing.assert_close(other.translation_GS3, first.translation_GS3 / 4)
    torch.testing.assert_close(other.noise_std_GS, first.noise_std_GS / 5)
    for name in ("rotation_GS3", "scale_GS3", "gamma_GS", "noise_key_GS", "kernel_GS"):
        assert torch.equal(getattr(other, name), getattr(first, name)), name


def test_distribution_of_what_a_ct_needs():
    p = augment.draw(seed=0, epoch=0, scans=SCANS, locations=LOCATIONS, view=0, strengths=EVERYTHING)
    mirrored = (p.scale_GS3 < 0).float()
    for axis in range(3):
        count = int(mirrored[..., axis].sum())
        assert stats.binomtest(count, mirrored[..., axis].numel(), 0.5).pvalue > 1e-3
    assert stats.kstest(p.scale_GS3.abs()[..., 0].flatten(), "uniform", (0.8, 0.4)).pvalue > 1e-3
    for value, neutral in ((p.kernel_GS, 0), (p.dose_std_GS, 0), (p.volume_GS, 1)):
        assert stats.binomtest(int((value != neutral).sum()), value.numel(), 0.5).pvalue > 1e-3
    assert stats.kstest(p.kernel_GS[p.kernel_GS != 0], "uniform", (-0.8, 2.0)).pvalue > 1e-3
    assert stats.kstest(p.dose_std_GS[p.dose_std_GS > 0], "uniform", (0, 60)).pvalue > 1e-3
    assert stats.kstest(p.grain_GS.flatten(), "uniform").pvalue > 1e-3
    depth = math.log(1.3)
    assert stats.kstest(p.volume_GS[p.volume_GS != 1].log(), "uniform", (-depth, 2 * depth)).pvalue > 1e-3
    columns = torch.stack(
        [p.kernel_GS, p.dose_std_GS, p.grain_GS, p.volume_GS, p.noise_std_GS, p.gamma_GS]
        + [*p.scale_GS3.sign().unbind(-1), *p.translation_GS3.unbind(-1)],
        dim=-1,
    )
    correlation = np.corrcoef(columns.flatten(0, 1).T)
    assert np.abs(correlation - np.eye(12)).max() < 0.1
    assert len(torch.cat([p.dose_key_GS, p.noise_key_GS]).unique()) == 2 * p.dose_key_GS.numel()


def test_everything_together_does_not_depend_on_the_batch_and_can_be_replayed():
    patches = torch.randint(-1100, 300, (3, 4, 32, 32, 32), dtype=torch.int16)
    kept = patches.clone()
    scans, locations = torch.tensor([4, 8, 15, 16]), torch.tensor([1, 6, 2])
    draw = functools.partial(augment.draw, seed=1, epoch=5, view=0, strengths=EVERYTHING)
    parameters = draw(scans=scans, locations=locations)
    for value, neutral in ((parameters.kernel_GS, 0), (parameters.dose_std_GS, 0), (parameters.volume_GS, 1)):
        assert 0 < (value != neutral).sum() < 12
    together = augment.apply(patches, parameters)
    for place in range(3):
        for scan in range(4):
            drawn = draw(scans=scans[[scan]], locations=locations[[place]])
            alone = augment.apply(patches[place, scan][None, None], drawn)
            torch.testing.assert_close(together[place, scan], alone[0, 0], rtol=0, atol=1e-5)
    assert torch.equal(augment.apply(patches, draw(scans=scans, locations=locations)), together)
    assert torch.equal(patches, kept)


def test_a_flip_is_a_flip():
    patch = torch.rand(1, 1, 32, 32, 32) * 1264 - 1024
    mirrored = augment.apply(patch, only(scale_GS3=torch.tensor([1.0, -1, 1]).view(1, 1, 3)))
    torch.testing.assert_close(mirrored, augment.normalise(patch.flip(3)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"translation": -1.0}, "translation is 0 or above, not -1.0"),
        ({"noise_probability": 1.5}, "noise_probability is between 0 and 1, not 1.5"),
        ({"breath": 0.8}, "breath is between 0 and 0.5, not 0.8"),
        ({"blur": 3.0}, "blur is between 0 and 1.33333, not 3.0"),
        ({"noise_std": math.nan}, "noise_std is 0 or above, not nan"),
        ({"gamma": (2.0, 1.0)}, r"gamma is \(least, largest\)"),
    ],
)
def test_strengths_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Strengths(**setting)
