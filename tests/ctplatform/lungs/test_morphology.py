"""Morphology by shifts is that of SciPy, at the borders too."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.lungs.morphology import Ellipsoid, dilate, erode, fill_holes, lowest_slices


@pytest.fixture(params=[0.02, 0.5, 0.9])
def mask(request):
    rng = np.random.default_rng(int(100 * request.param))
    return rng.random((9, 17, 14)) < request.param


def structure(radii, beyond):
    """The voxels of an ellipsoid by its equation."""
    grids = np.meshgrid(*[np.arange(-r, r + 1) for r in radii], indexing="ij")
    terms = [(g / (r + beyond)) ** 2 if r else 0 * g for g, r in zip(grids, radii)]
    return sum(terms) <= 1


@pytest.mark.parametrize("beyond", [0.0, 0.5])
@pytest.mark.parametrize("radii", [(1, 1, 1), (0, 2, 3), (3, 1, 0), (2, 4, 5)])
def test_dilation_and_erosion_are_those_of_scipy(mask, radii, beyond):
    element, shape = Ellipsoid.of(radii, beyond=beyond), structure(radii, beyond)
    assert np.array_equal(dilate(mask, element), ndimage.binary_dilation(mask, shape))
    assert np.array_equal(erode(mask, element), ndimage.binary_erosion(mask, shape, border_value=1))


def test_the_ellipsoid_is_that_of_simpleitk():
    point = np.zeros((9, 11, 13), np.uint8)
    point[4, 5, 6] = 1
    theirs = sitk.BinaryDilate(sitk.GetImageFromArray(point), (4, 3, 2), sitk.sitkBall)
    ours = dilate(point > 0, Ellipsoid.of((2, 3, 4), beyond=0.5))
    assert np.array_equal(ours, sitk.GetArrayFromImage(theirs) > 0)


def test_holes_are_those_of_scipy(mask):
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    shell = np.zeros((7, 7, 7), bool)
    shell[1:6, 1:6, 1:6] = True
    shell[2:5, 2:5, 2:5] = False
    assert fill_holes(shell).sum() == 125
    shell[1, 3, 3] = False  # a way out
    assert np.array_equal(fill_holes(shell), shell)


def test_lowest_slices(mask):
    expected = np.where(mask.any(axis=0), mask.argmax(axis=0), len(mask))
    assert np.array_equal(lowest_slices(mask), expected)
