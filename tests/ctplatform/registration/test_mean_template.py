"""The mean template of a cohort."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import RegistrationConfig
from ctplatform.errors import StageError
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.registration import mean_template, template
from ctplatform.registration.affine_registration import maps_of, register
from ctplatform.registration.distance_maps import distance_maps
from ctplatform.registration.mean_template import make_mean_template
from ctplatform.registration.template import Template
from tests.ctplatform.chest import lung_image, random_affine

CONFIG = RegistrationConfig.model_validate({})


@pytest.fixture(scope="module")
def masks() -> list[sitk.Image]:
    rng = np.random.default_rng(7)
    return [lung_image(random_affine(rng, degrees=8, scale=0.15), spacing=4.0) for _ in range(3)]


@pytest.fixture(scope="module")
def mean(masks) -> sitk.Image:
    return make_mean_template(masks, spacing_mm=2.0)


def test_mean_template_is_unbiased(masks, mean):
    """The affines from the template to the masks average to no change of shape."""
    built = Template.from_image(mean, config=CONFIG)
    linear = np.mean([register(mask, built, CONFIG).affine_44[:3, :3] for mask in masks], axis=0)
    np.testing.assert_allclose(linear, np.eye(3), atol=0.01)


def test_mean_template_keeps_the_shape(masks, mean):
    built = Template.from_image(mean, config=CONFIG)
    assert min(register(mask, built, CONFIG).dice for mask in masks) > 0.95
    assert set(np.unique(sitk.GetArrayViewFromImage(mean))) == {0, RIGHT, LEFT}


def test_mean_template_order_hardly_matters(masks, mean):
    other = make_mean_template(masks[::-1], spacing_mm=2.0)
    moved = sitk.Resample(other, mean, sitk.Transform(), sitk.sitkNearestNeighbor)
    a, b = sitk.GetArrayViewFromImage(mean), sitk.GetArrayViewFromImage(moved)
    assert 2 * ((a == b) & (a > 0)).sum() / ((a > 0).sum() + (b > 0).sum()) > 0.98


def test_mean_template_is_deterministic_from_two_masks_up(masks):
    first, second = (make_mean_template(masks[:2], iterations=1, spacing_mm=3.0) for _ in range(2))
    assert first.GetOrigin() == second.GetOrigin()
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(first), sitk.GetArrayViewFromImage(second))


def test_mean_template_does_not_depend_on_the_number_of_threads(masks, mean):
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        for threads in (1, 3):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            again = make_mean_template(masks, spacing_mm=2.0)
            assert again.GetOrigin() == mean.GetOrigin()
            np.testing.assert_array_equal(sitk.GetArrayViewFromImage(again), sitk.GetArrayViewFromImage(mean))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def test_distances_beyond_those_that_are_averaged_change_nothing(masks, mean, monkeypatch):
    def everywhere(labels, *, spacing, margin, reach):
        return distance_maps(labels, spacing=spacing, margin=margin)

    monkeypatch.setattr(mean_template, "distance_maps", everywhere)
    monkeypatch.setattr(template, "distance_maps", everywhere)
    again = make_mean_template(masks, spacing_mm=2.0)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(again), sitk.GetArrayViewFromImage(mean))


def test_distance_maps_can_be_used_again(masks, mean):
    built = Template.from_image(mean, config=CONFIG)
    maps = maps_of(masks[0], CONFIG)
    alone = register(masks[0], built, CONFIG)
    for _ in range(2):
        found = register(masks[0], built, CONFIG, maps=maps)
        np.testing.assert_array_equal(found.affine_44, alone.affine_44)


def test_one_mask_is_too_few(masks):
    with pytest.raises(StageError, match="at least 2"):
        make_mean_template(masks[:1])
