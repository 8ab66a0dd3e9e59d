"""Scans that are reversed front to back or upside down differ from others in the sign of two measures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import QualityConfig
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.preparation.body_axes import BodyAxes, measure_body_axes
from ctplatform.preparation.quality import assess
from tests.ctplatform.preparation.phantoms import phantom_scan, unregistered

CONFIG = QualityConfig.model_validate({})


@pytest.fixture(scope="module")
def phantom() -> sitk.Image:
    return phantom_scan(0)


def reversed_axes(image: sitk.Image, axes: tuple[bool, bool, bool]) -> sitk.Image:
    flipped = sitk.Flip(image, axes)
    flipped.CopyInformation(image)
    return flipped


@pytest.mark.parametrize("axes", list(itertools.product((False, True), repeat=3)))
def test_a_phantom_in_all_reversals(phantom: sitk.Image, axes: tuple[bool, bool, bool]) -> None:
    verdict = assess(unregistered(reversed_axes(phantom, axes)), CONFIG)
    reasons = " | ".join(verdict.reasons)
    assert ("front to back (y axis)" in reasons) == axes[1]
    assert ("upside down (z axis)" in reasons) == axes[2]
    if not any(axes):
        assert verdict.state == "accepted"
    if axes[1] or axes[2]:
        assert verdict.state == "rejected"


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_a_phantom_with_y_and_z_swapped(phantom: sitk.Image, signs: tuple[int, int, int]) -> None:
    """Lungs that lie on their back in a scan fit the atlas well enough: a real one of these was accepted."""
    turned_ZYX = sitk.GetArrayFromImage(phantom).transpose(1, 0, 2)[tuple(np.s_[::sign] for sign in signs)]
    swapped = sitk.GetImageFromArray(np.ascontiguousarray(turned_ZYX))
    x, y, z = phantom.GetSpacing()
    swapped.SetSpacing((x, z, y))
    verdict = assess(unregistered(swapped), CONFIG)
    assert verdict.state == "rejected"
    assert any("axes y and z of the scan seem to be swapped" in reason for reason in verdict.reasons)


def test_where_the_body_ends() -> None:
    """In y, as it does in every scan of a chest, or in z; an empty slice at an end says nothing."""
    hu = np.random.default_rng(0).integers(-1020, -980, (40, 50, 60)).astype(np.int16)
    hu[:, 10:40, 10:50] = 40
    none = image(np.zeros(hu.shape, np.uint8))
    assert math.isnan(measure_body_axes(hu, none).swapped)
    hu[:3] = -1024
    assert math.isnan(measure_body_axes(hu, none).swapped)
    cut = hu[:, 12:38]
    assert math.isnan(measure_body_axes(cut, none).swapped), "a field of view within the body"
    turned = hu[5:].transpose(1, 0, 2)
    assert measure_body_axes(turned, image(np.zeros(turned.shape, np.uint8))).swapped == pytest.approx(0.4)
    assert math.isnan(measure_body_axes(np.full((9, 9, 9), -1024, np.int16), none).swapped)


def chest(*, bone: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Lungs with a pointed top and a flat base on a grid of 2 mm, a spine and a thin sternum: HU and labels."""
    z, y, x = np.meshgrid(*(np.arange(n) * 2.0 for n in (60, 60, 90)), indexing="ij")
    hu = np.full(z.shape, 40, np.int16)
    labels = np.zeros(z.shape, np.uint8)
    for label, middle in ((RIGHT, 50.0), (LEFT, 130.0)):
        labels[(np.hypot(x - middle, y - 60) < 32 - 0.25 * (z - 12)) & (z > 12) & (z < 110)] = label
    hu[labels > 0] = -850
    if bone:
        hu[:, 45:52, 40:50] = 500
        hu[:, 13:15, 43:47] = 500
    return hu, labels


def image(labels: np.ndarray) -> sitk.Image:
    result = sitk.GetImageFromArray(labels)
    result.SetSpacing((2.0, 2.0, 2.0))
    return result


def test_signs_change_with_the_axes() -> None:
    hu, labels = chest()
    plain = measure_body_axes(hu, image(labels))
    assert plain.bone_behind == pytest.approx((70 - 8) / (70 + 8), abs=0.1)
    assert plain.apex_above > 1
    turned = measure_body_axes(hu[:, ::-1], image(labels[:, ::-1].copy()))
    assert turned.bone_behind == pytest.approx(-plain.bone_behind, abs=0.05)
    assert turned.apex_above == pytest.approx(plain.apex_above)
    turned = measure_body_axes(hu[::-1], image(labels[::-1].copy()))
    assert turned.bone_behind == pytest.approx(plain.bone_behind)
    assert turned.apex_above == pytest.approx(-plain.apex_above, abs=1e-4)


def test_what_is_not_in_the_scan_does_not_count() -> None:
    hu, labels = chest(bone=False)
    assert math.isnan(measure_body_axes(hu, image(labels)).bone_behind)
    hu, labels = chest()
    assert math.isnan(measure_body_axes(hu[10:], image(labels[10:].copy())).apex_above), (
        "the bases are cut off"
    )
    assert math.isnan(measure_body_axes(hu[:40], image(labels[:40].copy())).apex_above), (
        "the tops are cut off"
    )
    one = np.where(labels == RIGHT, labels, 0).astype(np.uint8)
    assert math.isnan(measure_body_axes(hu, image(one)).bone_behind)
    assert math.isnan(measure_body_axes(hu, image(np.zeros_like(labels))).apex_above)
    measures = {"bone_behind": math.nan, "apex_above": math.nan}
    assert assess(measures, CONFIG).state == "accepted"
    assert assess(BodyAxes(-0.1, -0.1, math.nan).__dict__, CONFIG).state == "flagged"


def test_scans_without_their_tops_are_rejected() -> None:
    assert assess({"cut_top_cm2": 61.0}, CONFIG).state == "rejected"
    assert assess({"cut_top_cm2": 59.0}, CONFIG).state == "flagged"
    assert assess({"cut_bottom_cm2": 61.0}, CONFIG).state == "flagged"
