"""Interpolation on a box: the same values as of SimpleITK and of SciPy, and exact where a formula says so."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.preparation.interpolation import Axis, interpolate_box, resample_box

WIDE = (-3000, 3000)
WIDE_OPEN = (-32768, 32767)


@pytest.mark.parametrize("shape", [(12, 40, 50), (90, 70, 65)])
def test_the_spline_is_that_of_simpleitk(shape):
    """Box inside, across and beyond the ends of a noisy volume, spacings coarser and finer than the voxels."""
    noise = np.random.default_rng(1).normal(0, 150, shape).astype(np.int16)
    positions = [np.arange(-4.0, n + 3, step) + 0.3 for n, step in zip(shape[::-1], (0.37, 1.0, 1.7))]
    axes = tuple(Axis.at(p, n, "bspline") for p, n in zip(positions, shape[::-1]))
    found = interpolate_box(noise, axes, WIDE)
    expected = sitk.Resample(
        sitk.Cast(sitk.GetImageFromArray(noise), sitk.sitkFloat64),
        [len(p) for p in positions],
        sitk.Transform(),
        sitk.sitkBSpline,
        [p[0] for p in positions],
        (0.37, 1.0, 1.7),
        np.eye(3).ravel().tolist(),
        float(PADDING_HU),
    )
    expected = sitk.GetArrayFromImage(expected)
    np.testing.assert_array_equal(found == PADDING_HU, expected == PADDING_HU)
    assert np.abs(found - expected).max() <= 0.6  # rounding to whole HU, and float32


def test_each_axis_is_one_product_to_the_last_bit():
    """Of all columns at once: BLAS may sum a column in another order where it lies elsewhere in a product.

    Values are so large that such a difference is seen.
    """
    noise = np.random.default_rng(6).integers(0, 30_000, (40, 60, 70)).astype(np.int16)
    positions = [np.arange(0.3, n - 1, step) for n, step in zip(noise.shape[::-1], (0.7, 0.6, 0.8))]
    axes = tuple(Axis.at(p, n, "bspline") for p, n in zip(positions, noise.shape[::-1]))
    along_x, along_y, along_z = axes
    slabs = np.stack([_along(along_x, _along(along_y, z.astype(np.float32)).T).T for z in noise])
    expected = np.rint(_along(along_z, slabs.reshape(len(slabs), -1))).clip(*WIDE_OPEN).astype(np.int16)
    found = interpolate_box(noise, axes, WIDE_OPEN)
    assert found[0].size > 5000
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def _along(axis: Axis, values: np.ndarray) -> np.ndarray:
    return np.concatenate([weights @ values[taken] for _, taken, weights in axis.blocks])


@pytest.mark.parametrize("kind", ["bspline", "linear"])
def test_at_the_voxels_it_is_the_voxels(kind):
    noise = np.random.default_rng(2).integers(-900, 200, (9, 11, 13)).astype(np.int16)
    axes = tuple(Axis.at(np.arange(float(n)), n, kind) for n in noise.shape[::-1])
    np.testing.assert_array_equal(interpolate_box(noise, axes, WIDE), noise)


@pytest.mark.parametrize("kind", ["bspline", "linear"])
def test_along_the_axes_and_voxel_by_voxel_it_is_the_same(kind):
    noise = np.random.default_rng(3).normal(-500, 200, (24, 30, 26)).astype(np.int16)
    image = sitk.GetImageFromArray(noise)
    to_index = np.diag([0.7, 0.9, 1.3, 1.0])
    to_index[:3, 3] = (-2.2, 1.4, 3.1)
    size = np.array([40, 25, 18])
    axes = tuple(
        Axis.at(to_index[i, 3] + to_index[i, i] * np.arange(size[i]), n, kind)
        for i, n in enumerate(image.GetSize())
    )
    straight = interpolate_box(noise, axes, WIDE)
    turned, inside = resample_box(image, to_index, size, kind, WIDE)
    np.testing.assert_array_equal(inside, straight != PADDING_HU)
    assert np.abs(straight.astype(int) - turned).max() <= 1


@pytest.mark.parametrize("kind", ["bspline", "linear"])
def test_what_no_cube_needs_is_left_out_and_the_rest_is_the_same(kind):
    """Of a turned box: cubes that overlap, that stand apart, that lie across its end, and one outside of the volume."""
    noise = np.random.default_rng(4).normal(-500, 200, (40, 50, 60)).astype(np.int16)
    image = sitk.GetImageFromArray(noise)
    turn = Rotation.from_euler("xyz", (4, -7, 12), degrees=True).as_matrix()
    to_index = np.eye(4)
    to_index[:3, :3] = turn * 0.8
    to_index[:3, 3] = (-3.0, 2.0, 1.0)
    start, side = np.array([[0, 0, 0], [5, 3, 2], [41, 30, 20], [57, 44, 30], [90, 0, 0]]), 11
    size = start.max(axis=0) + side
    whole, inside = resample_box(image, to_index, size, kind, WIDE)
    part, inside_part = resample_box(image, to_index, size, kind, WIDE, cubes=(start, side))
    needed = np.zeros(whole.shape, bool)
    for x, y, z in start:
        cube = (slice(z, z + side), slice(y, y + side), slice(x, x + side))
        needed[cube] = True
        np.testing.assert_array_equal(part[cube], whole[cube])
        np.testing.assert_array_equal(inside_part[cube], inside[cube])
    assert not inside[:, :side, 90:].any()
    left_out = (part == PADDING_HU) & inside
    assert left_out.sum() > 0.5 * (inside & ~needed).sum()
    assert not left_out[needed].any()


@pytest.mark.parametrize("kind", ["bspline", "linear"])
def test_weights_of_every_position_sum_to_one(kind):
    axis = Axis.at(np.linspace(-3, 90, 301), 80, kind)
    for block, taken, weights in axis.blocks:
        np.testing.assert_allclose(weights.sum(axis=1)[~axis.outside_N[block]], 1, atol=1e-4)
        assert 0 <= taken.start < taken.stop <= 80
    assert axis.used.start == 0
    assert axis.used.stop == 80


def test_the_share_inside_is_that_of_the_positions():
    axis = Axis.at(np.arange(-6.0, 20.0), 10, "linear")
    assert axis.outside_N.tolist() == [True] * 6 + [False] * 10 + [True] * 10
    starts = np.arange(22)
    expected = [np.mean(~axis.outside_N[start : start + 4]) for start in starts]
    np.testing.assert_allclose(axis.inside_share(starts, 4), expected)


def test_wholly_outside_is_padding():
    axes = (
        Axis.at(np.arange(30.0, 35.0), 10, "linear"),
        *(Axis.at(np.arange(4.0), 10, "linear") for _ in range(2)),
    )
    assert axes[0].used == slice(0, 0)
    box = interpolate_box(np.zeros((10, 10, 10), np.int16), axes, WIDE)
    assert box.shape == (4, 4, 5)
    assert (box == PADDING_HU).all()
