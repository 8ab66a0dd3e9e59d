"""Sampling against fields that are known exactly, and against the B-spline of the whole volume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.preparation.sampling import sample_patches
from ctplatform.registration.affine import transform_points
from drasclr.atlas import Atlas
from tests.ctplatform.chest import random_affine, rotation

WIDE = (-3000, 3000)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    mask = np.zeros((64, 64, 64), np.uint8)
    mask[8:56, 8:56, 8:56] = 50
    return Atlas.from_template(
        mask,
        spacing=(1.0, 1.0, 1.0),
        origin=(-30.0, 25.0, -40.0),
        direction=(1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0),  # the published atlas' axes
        patch_size=16,
        step=16,
    )


def scan(function, *, spacing=(0.8, 0.8, 2.0), direction_33=None, half_mm=70.0) -> sitk.Image:
    """A scan around 0 mm whose HU are a function of LPS points [...,3]."""
    direction_33 = np.eye(3) if direction_33 is None else direction_33
    size = np.ceil(2 * half_mm / np.array(spacing)).astype(int)
    origin = direction_33 @ np.full(3, -half_mm)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij"), axis=-1)[..., ::-1]
    image = sitk.GetImageFromArray(
        np.rint(function((grid * spacing) @ direction_33.T + origin)).astype(np.int16)
    )
    image.SetSpacing(spacing)
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction_33.ravel().tolist())
    return image


def slope(points: np.ndarray) -> np.ndarray:
    return points @ (3.0, -2.0, 4.0) - 300.0


def lattice(centres_N3: np.ndarray, size: int, axes_33: np.ndarray) -> np.ndarray:
    """LPS points of every patch voxel [N,z,y,x,3]."""
    offset = np.arange(size) - (size - 1) / 2
    z, y, x = np.meshgrid(offset, offset, offset, indexing="ij")
    return centres_N3[:, None, None, None] + np.stack([x, y, z], axis=-1) @ axes_33.T


OBLIQUE = rotation(np.array([0.2, 1.0, 0.3]), 12.0)


@pytest.mark.parametrize("direction_33", [np.eye(3), OBLIQUE], ids=["aligned", "oblique"])
@pytest.mark.parametrize("interpolation", ["bspline", "linear"])
def test_patches_lie_around_the_mapped_centres_with_lps_axes(atlas, direction_33, interpolation):
    affine = random_affine(np.random.default_rng(3), degrees=10, scale=0.1, shift=5)
    patches = sample_patches(
        scan(slope, direction_33=direction_33), affine, atlas, interpolation=interpolation, hu_window=WIDE
    )
    wanted = transform_points(affine, atlas.centres_mm_N3)
    assert (
        np.abs(patches.centres_mm_N3 - wanted).max() <= 0.5 + 1e-9
    )  # one lattice for all: half a step at most
    expected = slope(lattice(patches.centres_mm_N3, 16, np.eye(3)))
    whole = patches.inside_N == 1
    assert whole.sum() > 10
    assert np.abs(patches.hu_NDHW[whole] - expected[whole]).max() <= 1.0  # rounding in and out


def test_other_patch_spacing(atlas):
    patches = sample_patches(scan(slope), np.eye(4), atlas, spacing_mm=1.5, hu_window=WIDE)
    offset = (np.arange(16) - 7.5) * 1.5
    whole = np.flatnonzero(patches.inside_N == 1)[0]
    along_x = patches.hu_NDHW[whole, 8, 8]
    expected = slope(patches.centres_mm_N3[whole] + np.stack([offset, *np.full((2, 16), 0.75)], axis=-1))
    assert np.abs(along_x - expected).max() <= 1.0


def test_published_geometry_starts_at_the_mapped_corner(atlas):
    """The patch then runs along the scan's axes, so with the atlas' flipped axis its centre is elsewhere."""
    affine = np.eye(4)
    patches = sample_patches(scan(slope), affine, atlas, geometry="published", hu_window=WIDE)
    corners = atlas.corners_N3 * (1.0, -1.0, 1.0) + np.array(atlas.origin)
    first = patches.centres_mm_N3 - 7.5
    assert np.abs(first - corners).max() <= 0.5 + 1e-9
    off = np.linalg.norm(patches.centres_mm_N3 - atlas.centres_mm_N3, axis=1)
    assert off.min() > 14  # nearly one patch width


def test_published_geometry_follows_oblique_axes(atlas):
    patches = sample_patches(
        scan(slope, direction_33=OBLIQUE), np.eye(4), atlas, geometry="published", hu_window=WIDE
    )
    expected = slope(lattice(patches.centres_mm_N3, 16, OBLIQUE))
    whole = patches.inside_N == 1
    assert np.abs(patches.hu_NDHW[whole] - expected[whole]).max() <= 1.0


@pytest.mark.parametrize("direction_33", [np.eye(3), OBLIQUE], ids=["aligned", "oblique"])
def test_outside_is_padded_and_its_share_recorded(atlas, direction_33):
    image = scan(lambda points: np.full(points.shape[:-1], 100.0), direction_33=direction_33, half_mm=35.0)
    patches = sample_patches(image, np.eye(4), atlas)
    assert 0 < patches.inside_N.min() < 1
    assert patches.inside_N.max() == 1
    padded = (patches.hu_NDHW == PADDING_HU).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(1 - padded, patches.inside_N, atol=1e-6)
    assert set(np.unique(patches.hu_NDHW)) == {PADDING_HU, 100}


def test_a_scan_elsewhere_is_an_error(atlas):
    away = np.eye(4)
    away[:3, 3] = 5000
    with pytest.raises(ScanError) as caught:
        sample_patches(scan(slope), away, atlas)
    assert caught.value.code == "outside"


def test_hu_window_and_padding_below_air(atlas):
    """Padding of -3024 counts as air: it may not ring into the voxels beside it."""
    image = scan(lambda points: np.where(points[..., 0] > 0, -3024.0, -900.0))
    patches = sample_patches(image, np.eye(4), atlas, hu_window=(-1024, 240))
    assert patches.hu_NDHW.min() >= -1024
    far = lattice(patches.centres_mm_N3, 16, np.eye(3))[..., 0] < -0.5
    assert np.abs(patches.hu_NDHW[far].astype(int) + 900).max() < 15


def test_atlas_axes_turn_scale_and_shear_with_the_affine(atlas):
    """Every voxel of a patch is where the affine takes the atlas voxel, not only the centre."""
    affine = random_affine(np.random.default_rng(3), degrees=20, scale=0.25, shift=5)
    affine[0, 1] += 0.1
    patches = sample_patches(scan(slope), affine, atlas, axes="atlas", hu_window=WIDE)
    np.testing.assert_allclose(
        patches.centres_mm_N3, transform_points(affine, atlas.centres_mm_N3), atol=1e-6
    )  # the lattice is the atlas' own: nothing is rounded
    in_atlas = lattice(atlas.centres_mm_N3, 16, np.eye(3))
    expected = slope(transform_points(affine, in_atlas.reshape(-1, 3))).reshape(in_atlas.shape[:-1])
    whole = patches.inside_N == 1
    assert whole.sum() > 10
    assert np.abs(patches.hu_NDHW[whole] - expected[whole]).max() <= 1.5


def test_atlas_axes_need_no_turning_where_the_affine_does_not_turn(atlas):
    """Both ways of interpolating, along the axes and voxel by voxel, give the same patches."""
    affine = np.diag([0.9, 1.1, 1.2, 1.0])
    straight = sample_patches(scan(bumps), affine, atlas, axes="atlas", hu_window=WIDE)
    affine[0, 1] = 2e-3  # just enough to be no longer along the axes
    turned = sample_patches(scan(bumps), affine, atlas, axes="atlas", hu_window=WIDE)
    both = (straight.inside_N == 1) & (turned.inside_N == 1)
    difference = straight.hu_NDHW[both].astype(int) - turned.hu_NDHW[both]
    assert np.abs(difference).max() <= 3
    assert np.abs(difference).mean() < 0.6


def bumps(points: np.ndarray) -> np.ndarray:
    return 200 * np.sin(points / (9.0, 11.0, 13.0)).sum(axis=-1) - 300


def test_the_bars_of_the_disease_signal(atlas):
    """In lung-like noise, against the B-spline of the whole volume: mean |dHU| <= 5, LAA-950 within 10%."""
    rng = np.random.default_rng(0)
    shape = (80, 180, 180)
    noise = sitk.GetImageFromArray(rng.normal(0, 100, shape).astype(np.float32))
    noise = sitk.DiscreteGaussian(noise, [1.0, 1.0, 0.5], 9, 0.01, False)  # the grain of a soft kernel
    for mean_hu in (-865.0, -825.0):  # much emphysema, and hardly any
        image = sitk.Cast(noise * 2.0 + mean_hu, sitk.sitkInt16)
        image.SetSpacing((0.7, 0.7, 1.5))
        image.SetOrigin((-62.0, -62.0, -60.0))
        spline = sitk.Resample(
            sitk.Cast(image, sitk.sitkFloat32),
            [124] * 3,
            sitk.Transform(),
            sitk.sitkBSpline,
            image.GetOrigin(),
        )
        spline = np.clip(sitk.GetArrayFromImage(spline), -1024, 240)
        error, share = {}, {}
        for kind in ("bspline", "linear"):
            patches = sample_patches(image, np.eye(4), atlas, interpolation=kind)
            whole = np.flatnonzero(patches.inside_N == 1)
            starts = np.rint(patches.centres_mm_N3 - 7.5 - image.GetOrigin()).astype(int)[whole]
            wanted = np.stack([spline[z : z + 16, y : y + 16, x : x + 16] for x, y, z in starts])
            error[kind] = np.abs(patches.hu_NDHW[whole] - wanted).mean()
            share[kind] = np.mean(patches.hu_NDHW[whole] < -950) / np.mean(wanted < -950) - 1
        assert error["bspline"] <= 5
        assert abs(share["bspline"]) <= 0.10
        assert error["linear"] > 5  # what the bar is there to catch
        assert share["linear"] < -0.25


def test_order_is_the_order_of_the_locations(atlas):
    some = dataclasses.replace(
        atlas,
        corners_N3=atlas.corners_N3[::-1],
        neighbours_NK=atlas.neighbours_NK[::-1],
        blocks_N=atlas.blocks_N[::-1],
    )
    image = scan(slope)
    forward, backward = (sample_patches(image, np.eye(4), a) for a in (atlas, some))
    np.testing.assert_array_equal(forward.hu_NDHW, backward.hu_NDHW[::-1])
