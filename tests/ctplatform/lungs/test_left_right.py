"""Right and left lung, apart, joined, mirrored and alone."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.lungs.coarse_grid import CoarseGrid
from ctplatform.lungs.left_right import split_left_right
from ctplatform.lungs.mask import LEFT, RIGHT
from tests.ctplatform.lungs.masks import SEGMENT, edited


def test_a_mirrored_image_swaps_the_sides(subject):
    image, _ = subject
    mirrored = edited(image, sitk.GetArrayFromImage(image)[:, :, ::-1])
    plain, swapped = SEGMENT(image).measures, SEGMENT(mirrored).measures
    assert swapped["right_l"] == pytest.approx(plain["left_l"], rel=0.05)
    assert swapped["left_l"] == pytest.approx(plain["right_l"], rel=0.05)


def ellipsoids(*centres_x: float, radius: float = 11.0) -> tuple[CoarseGrid, np.ndarray]:
    """Ellipsoids of lung along x in a block of tissue, voxels of 4 mm; and their mask."""
    z, y, x = np.ogrid[:40, :30, :60]
    lung = np.zeros((40, 30, 60), bool)
    for centre in centres_x:
        lung |= ((x - centre) / radius) ** 2 + ((y - 15) / 9) ** 2 + ((z - 20) / 16) ** 2 < 1
    return CoarseGrid(np.where(lung, -850, 40).astype(np.int16), (4.0, 4.0, 4.0)), lung


def test_lungs_apart_are_labelled_by_their_place():
    scan, lung = ellipsoids(15, 45)
    labels, separation = split_left_right(scan, lung)
    assert separation == "apart"
    np.testing.assert_array_equal(labels > 0, lung)
    half = np.arange(60) < 30
    assert set(np.unique(labels[:, :, half])) == {0, RIGHT}
    assert set(np.unique(labels[:, :, ~half])) == {0, LEFT}


def test_lungs_that_touch_are_cut_where_they_are_narrowest():
    scan, lung = ellipsoids(18, 42, radius=12.5)
    _, sizes = scan.components(lung)
    assert len(sizes) == 2, "one component"
    labels, separation = split_left_right(scan, lung)
    assert separation == "joined"
    np.testing.assert_array_equal(labels > 0, lung)
    right, left = (np.nonzero(labels == label)[2] for label in (RIGHT, LEFT))
    assert right.max() <= 31
    assert left.min() >= 29


@pytest.mark.parametrize(("centre", "label"), [(15, RIGHT), (45, LEFT)])
def test_a_single_lung_is_labelled_by_its_place_in_the_body(centre, label):
    scan, lung = ellipsoids(centre)
    labels, separation = split_left_right(scan, lung)
    assert separation == "one"
    np.testing.assert_array_equal(labels, lung * np.uint8(label))


def test_small_parts_belong_to_the_nearer_lung():
    scan, lung = ellipsoids(15, 45)
    lung[2:5, 2:5, 2:5] = lung[2:5, 2:5, 50:53] = True
    labels, _ = split_left_right(scan, lung)
    assert labels[3, 3, 3] == RIGHT
    assert labels[3, 3, 51] == LEFT
