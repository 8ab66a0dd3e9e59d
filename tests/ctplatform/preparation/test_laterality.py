"""Mirrored scans differ from unmirrored ones in the sign of two measures, and are flagged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import QualityConfig
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.preparation.laterality import HEART_MM, SOFT, Laterality, measure_laterality
from ctplatform.preparation.quality import assess
from tests.ctplatform.preparation.phantoms import mirrored, phantom_scan, unregistered

CONFIG = QualityConfig.model_validate({})


@pytest.fixture(scope="module", params=[0, 2])
def phantom(request) -> sitk.Image:
    return phantom_scan(request.param)


def test_a_mirrored_phantom_differs_from_the_same_one_as_it_is(phantom):
    plain, swapped = unregistered(phantom), unregistered(mirrored(phantom))
    assert assess(plain, CONFIG).reasons == ()
    assert plain["mirrored"] == pytest.approx(1 - swapped["mirrored"], abs=0.05)
    verdict = assess(swapped, CONFIG)
    assert verdict.state in ("flagged", "rejected")
    assert "mirrored left-right" in verdict.reasons[0]
    assert "to the right of the middle" in verdict.reasons[0]


def test_probabilities_of_a_scan_and_of_its_mirror_image_add_to_one():
    for heart, soft in ((0.0, 0.0), (12.0, 0.3), (-3.0, 0.1), (400.0, 9.0)):
        sum_ = Laterality(heart, soft).mirrored + Laterality(-heart, -soft).mirrored
        assert sum_ == pytest.approx(1)
    assert Laterality(HEART_MM, SOFT).mirrored < 0.01
    assert Laterality(0.0, 0.0).mirrored == 0.5


def boxes(right_x: slice, left_x: slice) -> tuple[np.ndarray, sitk.Image]:
    """Two box-shaped lungs on a grid of 2 mm, and HU of soft tissue around them."""
    labels = np.zeros((40, 40, 60), np.uint8)
    labels[10:35, 5:35, right_x], labels[10:35, 5:35, left_x] = RIGHT, LEFT
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((2.0, 2.0, 2.0))
    return np.where(labels > 0, -850, 40).astype(np.int16), image


def test_the_heart_is_measured_in_mm_from_the_middle_between_the_outer_edges():
    hu, labels = boxes(slice(2, 26), slice(38, 58))  # the gap 26..37 is around 31.5, the middle is 29.5
    assert measure_laterality(hu, labels).heart_mm == pytest.approx(2.0 * 2)
    hu, labels = boxes(slice(2, 22), slice(34, 58))
    assert measure_laterality(hu, labels).heart_mm == pytest.approx(-2.0 * 2)


def test_soft_tissue_is_compared_under_the_domes():
    hu, labels = boxes(slice(2, 26), slice(34, 58))
    assert measure_laterality(hu, labels).soft == 0
    hu[:10, :, 30:] = -90  # fat under the left dome
    assert measure_laterality(hu, labels).soft == pytest.approx(1)
    hu, labels = boxes(slice(2, 26), slice(34, 58))
    hu[:10, :, :30] = -90
    assert measure_laterality(hu, labels).soft == pytest.approx(-1)


def test_without_lungs_or_domes_there_is_no_evidence():
    hu, labels = boxes(slice(0, 0), slice(0, 0))
    assert measure_laterality(hu, labels) == Laterality(0.0, math.nan)
    hu, labels = boxes(slice(2, 26), slice(34, 58))
    cut_off = sitk.GetImageFromArray(sitk.GetArrayFromImage(labels)[12:])
    cut_off.SetSpacing(labels.GetSpacing())
    assert math.isnan(measure_laterality(hu[12:], cut_off).soft), "the scan ends within the lungs"


def test_a_shifted_heart_alone_says_little():
    """An upper-lobe collapse moves it by 8 mm; with the domes in view that would be a mirrored scan."""
    assert Laterality(-HEART_MM, math.nan).mirrored < CONFIG.flag_mirrored
    assert Laterality(-HEART_MM, -SOFT).mirrored > CONFIG.reject_mirrored
    assert Laterality(-2 * HEART_MM, math.nan).mirrored < CONFIG.reject_mirrored
    measures = {"mirrored": 0.99, "heart_left_mm": -30.0, "liver_right": math.nan}
    assert "cannot be compared" in assess(measures, CONFIG).reasons[0]
