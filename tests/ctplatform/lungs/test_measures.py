"""Measures of lung masks against NumPy on known lungs."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.lungs import measures
from ctplatform.lungs.coarse_grid import CoarseGrid
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.measures import density, mask_measures
from tests.ctplatform.lungs.masks import SEGMENT


def test_measures_say_what_is_there(subject):
    image, truth = subject
    measures = SEGMENT(image).measures
    litres = (sitk.GetArrayViewFromImage(truth) > 0).sum() * np.prod(image.GetSpacing()) / 1e6
    assert measures["volume_l"] == pytest.approx(litres, rel=0.08)
    assert measures["volume_l"] == pytest.approx(measures["right_l"] + measures["left_l"])
    assert measures["cut_top_cm2"] == measures["cut_bottom_cm2"] == measures["cut_side_cm2"] == 0


def test_density_against_numpy(subject):
    image, truth = subject
    hu = sitk.GetArrayViewFromImage(image)[sitk.GetArrayViewFromImage(truth) > 0]
    measured = density(image, truth)
    assert measured["laa950"] == pytest.approx(np.mean(hu < -950))
    assert measured["perc15"] == pytest.approx(np.percentile(hu, 15), abs=1)
    assert measured["mean_hu"] == pytest.approx(np.maximum(hu, -1024).mean())
    assert measured["volume_l"] == pytest.approx(hu.size * np.prod(image.GetSpacing()) / 1e6)


def blocks() -> tuple[CoarseGrid, np.ndarray]:
    """Two blocks of known size, the left one on the first slice and on a side."""
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[4:18, 5:25, 3:15] = RIGHT
    labels[0:18, 5:25, 25:40] = LEFT
    return CoarseGrid(np.full(labels.shape, -850, np.int16), (2.0, 3.0, 4.0)), labels


def test_measures_of_blocks():
    measures = mask_measures(*blocks())
    right, left = 14 * 20 * 12 * 24 / 1e6, 18 * 20 * 15 * 24 / 1e6
    assert measures["right_l"] == pytest.approx(right)
    assert measures["left_l"] == pytest.approx(left)
    assert measures["side_ratio"] == pytest.approx(right / left)
    assert measures["cut_bottom_cm2"] == pytest.approx(20 * 15 * 6 / 100)
    assert measures["cut_top_cm2"] == 0
    assert measures["cut_side_cm2"] == pytest.approx(18 * 20 * 3 * 4 / 100)
    assert measures["base_step_mm"] == pytest.approx(4 * 4.0)


def test_one_lung_only():
    scan, labels = blocks()
    measures = mask_measures(scan, labels * (labels == RIGHT))
    assert measures["side_ratio"] == np.inf
    assert measures["base_step_mm"] == 0


def test_density_does_not_depend_on_what_lies_around_the_lungs(subject):
    image, truth = subject
    lungs = np.argwhere(sitk.GetArrayViewFromImage(truth) > 0)[:, ::-1]
    low, high = lungs.min(axis=0), lungs.max(axis=0) + 1
    part = [slice(int(a), int(b)) for a, b in zip(low, high)]
    cropped = density(image[part[0], part[1], part[2]], truth[part[0], part[1], part[2]])
    whole = density(image, truth)
    assert cropped.keys() == whole.keys()
    for name in whole:
        assert cropped[name] == pytest.approx(whole[name]), name


def test_density_of_an_empty_mask_is_an_error(subject):
    image, truth = subject
    with pytest.raises(ScanError) as caught:
        density(image, truth * 0)
    assert caught.value.code == "no-lung"


@pytest.mark.parametrize("size", [(24, 18, 12), (25, 20, 13), (26, 19, 14)])
@pytest.mark.parametrize("factors", [(4, 3, 2), (3, 3, 1), (1, 1, 1)])
def test_repeated_labels_measure_what_the_resampled_mask_does(size, factors, monkeypatch):
    """Sizes that are whole blocks or not, lungs that touch the faces or not, oblique axes."""
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.integers(-1024, 200, size[::-1]).astype(np.int16))
    image.SetSpacing((0.7, 0.8, 1.3))
    image.SetOrigin((-100.0, 20.0, 3.0))
    image.SetDirection((0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    coarse = sitk.BinShrink(image, factors)
    for inner in (False, True):
        labels_ZYX = rng.choice(np.array([0, LEFT, RIGHT], np.uint8), coarse.GetSize()[::-1])
        if inner:
            kept = labels_ZYX[1:-1, 1:-1, 1:-1].copy()
            labels_ZYX[:] = 0
            labels_ZYX[1:-1, 1:-1, 1:-1] = kept
        labels = sitk.GetImageFromArray(labels_ZYX)
        labels.CopyInformation(coarse)
        assert measures.block_size(image, labels) == factors
        found = density(image, labels)
        with monkeypatch.context() as patch:
            patch.setattr(measures, "block_size", lambda *_: None)
            assert found == density(image, labels)


def test_a_mask_whose_voxels_are_no_whole_blocks_is_resampled():
    image = sitk.Image([24, 18, 12], sitk.sitkInt16)
    labels = sitk.BinShrink(image, (4, 3, 2))
    labels.SetOrigin((0.0, 0.0, 0.0))
    assert measures.block_size(image, labels) is None
