"""The planes of an overlay go through what its first reason is about."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import RegistrationConfig
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
from ctplatform.preparation.problem_place import problem_place
from ctplatform.registration.affine_registration import Registration
from ctplatform.registration.template import Template
from tests.ctplatform.chest import lung_image

IDENTITY = Registration(np.eye(4), 0.9, 0.9, 0.9, 1)


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(lung_image(spacing=4.0), RegistrationConfig.model_validate({}))


def scan_of(labels: sitk.Image) -> sitk.Image:
    hu = np.where(sitk.GetArrayViewFromImage(labels) > 0, -850, 40).astype(np.int16)
    image = sitk.GetImageFromArray(hu)
    image.CopyInformation(labels)
    return image


def place(
    cause: str, labels: sitk.Image, template: Template, **measures: float
) -> tuple[float, float, float]:
    found = problem_place(cause, scan_of(labels), LungMask(labels, measures), IDENTITY, template)
    assert found is not None
    return found


def test_the_slice_at_which_lungs_are_cut_off(template):
    whole = lung_image(spacing=4.0)
    for name, labels, end in (
        ("cut_bottom_cm2", whole[:, :, 20:], 0),
        ("cut_top_cm2", whole[:, :, : whole.GetSize()[2] - 20], -1),
    ):
        index = labels.TransformPhysicalPointToIndex(place(name, labels, template))
        assert index[2] == (0 if end == 0 else labels.GetSize()[2] - 1)
        assert labels[index] > 0


def test_the_side_at_which_the_field_of_view_ends(template):
    labels = lung_image(spacing=4.0)[20:, :, :]
    index = labels.TransformPhysicalPointToIndex(place("cut_side_cm2", labels, template))
    assert index[0] == 0


@pytest.mark.parametrize(("name", "label"), [("opaque_right", RIGHT), ("opaque_left", LEFT)])
def test_where_lung_is_as_dense_as_tissue(template, name, label):
    labels = lung_image(spacing=4.0)
    array = sitk.GetArrayFromImage(labels)
    true = array.copy()
    lower = np.arange(len(array)) < len(array) // 2
    array[lower] = np.where(array[lower] == label, 0, array[lower])
    without = sitk.GetImageFromArray(array)
    without.CopyInformation(labels)
    index = without.TransformPhysicalPointToIndex(place(name, without, template))
    assert true[index[::-1]] == label
    assert array[index[::-1]] == 0


def test_the_base_that_ends_higher_and_the_smaller_lung(template):
    labels = lung_image(spacing=4.0)
    array = sitk.GetArrayFromImage(labels)
    array[: len(array) // 2][array[: len(array) // 2] == LEFT] = 0
    shorter = sitk.GetImageFromArray(array)
    shorter.CopyInformation(labels)
    for cause, measures in (("base_step_mm", {"base_step_mm": -70.0}), ("side_ratio", {"side_ratio": 2.5})):
        index = shorter.TransformPhysicalPointToIndex(place(cause, shorter, template, **measures))
        assert array[index[::-1]] == LEFT
    lowest = shorter.TransformPhysicalPointToIndex(
        place("base_step_mm", shorter, template, base_step_mm=-70.0)
    )
    assert lowest[2] <= len(array) // 2 + 3


def test_places_of_the_segmenter_come_first_and_the_whole_has_none(template):
    labels = lung_image(spacing=4.0)
    mask = LungMask(labels, {}, places={"free_air_ml": (1.0, 2.0, 3.0)})
    assert problem_place("free_air_ml", scan_of(labels), mask, IDENTITY, template) == (1.0, 2.0, 3.0)
    for cause in ("", "dice", "volume_l"):
        assert problem_place(cause, scan_of(labels), mask, IDENTITY, template) is None
