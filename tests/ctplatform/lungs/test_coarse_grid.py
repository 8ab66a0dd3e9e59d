"""The coarse grid and its morphology, against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.lungs.coarse_grid import CoarseGrid, bounding_box, shrink

SPACING = (2.0, 3.0, 4.0)


def grid(shape_ZYX: tuple[int, int, int] = (14, 15, 16)) -> CoarseGrid:
    return CoarseGrid(np.zeros(shape_ZYX, np.int16), SPACING)


def blobs(seed: int = 0, shape_ZYX: tuple[int, int, int] = (14, 15, 16)) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape_ZYX)
    return ndimage.gaussian_filter(noise, 1.2) > 0.12


def ball(radii_ZYX: list[int]) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(-r, r + 1) for r in radii_ZYX), indexing="ij")
    return sum((axis / r) ** 2 for axis, r in zip(axes, radii_ZYX)) <= 1


@pytest.mark.parametrize("mm", [4.0, 6.5, 12.0])
def test_dilation_is_that_of_an_ellipsoid_of_the_radius_in_mm(mm):
    mask, scan = blobs(), grid()
    radii = [max(1, round(mm / s)) for s in SPACING[::-1]]
    np.testing.assert_array_equal(scan.dilate(mask, mm), ndimage.binary_dilation(mask, ball(radii)))


@pytest.mark.parametrize("mm", [4.0, 8.0])
def test_erosion_is_that_of_the_complement_and_spares_the_border(mm):
    mask, scan = blobs(1), grid()
    radii = [max(1, round(mm / s)) for s in SPACING[::-1]]
    expected = ndimage.binary_erosion(mask, ball(radii), border_value=1)
    np.testing.assert_array_equal(scan.erode(mask, mm), expected)
    whole = np.ones(mask.shape, bool)
    assert scan.erode(whole, mm).all()


def test_a_length_below_half_a_voxel_dilates_by_at_least_the_least():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    scan = grid((5, 5, 5))
    assert scan.dilate(mask, 0.5).sum() == 7
    assert scan.dilate(mask, 0.5, least=0).sum() == 1
    assert scan.radius(6.0) == [3, 2, 2]
    assert scan.radius(0.1) == [1, 1, 1]


def test_components_are_those_of_scipy_with_their_sizes():
    mask, scan = blobs(2), grid()
    labels, sizes = scan.components(mask)
    expected, count = ndimage.label(mask)
    assert len(sizes) == count + 1
    assert sizes[0] == 0
    assert sizes.sum() == mask.sum()
    pairs = set(zip(labels[mask].tolist(), expected[mask].tolist()))
    assert len(pairs) == count, "one component of each is one of the other"
    assert not labels[~mask].any()


def test_volume_of_a_voxel():
    assert grid().voxel_ml == pytest.approx(0.024)


def test_shrinking_means_blocks_and_keeps_the_place():
    rng = np.random.default_rng(0)
    fine = rng.integers(-1000, 300, (12, 8, 12)).astype(np.int16)
    image = sitk.GetImageFromArray(fine)
    image.SetSpacing((1.0, 1.5, 0.75))
    image.SetOrigin((-7.0, 3.0, 100.0))
    coarse = shrink(image, 3.0)
    assert coarse.GetSpacing() == (3.0, 3.0, 3.0)
    blocks = fine.reshape(3, 4, 4, 2, 4, 3).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(sitk.GetArrayFromImage(coarse), blocks, atol=1)
    first = image.TransformContinuousIndexToPhysicalPoint((1.0, 0.5, 1.5))  # the middle of the first block
    np.testing.assert_allclose(coarse.GetOrigin(), first)


def test_shrinking_limits_padding_and_metal():
    fine = np.zeros((6, 6, 6), np.int16)
    fine[:3], fine[3:] = -3024, 20000
    image = sitk.GetImageFromArray(fine)
    coarse = sitk.GetArrayFromImage(shrink(image, 3.0))
    assert np.unique(coarse).tolist() == [-1024, 3071]
    np.testing.assert_array_equal(
        np.unique(sitk.GetArrayFromImage(shrink(image, 0.5))), [-1024, 3071], "no coarser than the scan"
    )


def test_bounding_boxes_hold_the_mask_and_no_more():
    mask = np.zeros((9, 10, 11), bool)
    mask[2, 3:5, 10] = mask[6, 4, 7] = True
    assert bounding_box(mask, [0, 0, 0]) == (slice(2, 7), slice(3, 5), slice(7, 11))
    z, y, x = bounding_box(mask, [3, 1, 2])
    assert (z.start, y.start, x.start) == (0, 2, 5)
    assert mask[z, y, x].sum() == mask.sum()


def test_means_of_neighbours_in_some_slices():
    noise = np.random.default_rng(0).normal(-800, 100, (8, 9, 10)).astype(np.int16)
    found = CoarseGrid(noise, SPACING).smoothed(slice(0, 5))
    np.testing.assert_array_equal(found[5:], noise[5:])
    expected = ndimage.uniform_filter(noise[:5].astype(float), 3, mode="nearest")
    np.testing.assert_allclose(found[:5], expected, atol=1.0)
