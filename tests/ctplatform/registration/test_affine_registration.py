"""Registration against affines that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import RegistrationConfig
from ctplatform.errors import ScanError
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.registration.affine import transform_points
from ctplatform.registration.affine_registration import register
from tests.ctplatform.chest import lung_image, random_affine, rotation

CONFIG = RegistrationConfig.model_validate({})


@pytest.fixture(scope="module")
def landmarks_N3() -> np.ndarray:
    """Centres of a 26 mm grid in the lungs: what the atlas locations are."""
    image = lung_image(spacing=26.0)
    index = np.argwhere(sitk.GetArrayViewFromImage(image) > 0)[:, ::-1]
    return index * 26.0 + np.array(image.GetOrigin())


def landmark_error(found_44: np.ndarray, true_44: np.ndarray, points_N3: np.ndarray) -> float:
    difference = transform_points(found_44, points_N3) - transform_points(true_44, points_N3)
    return float(np.linalg.norm(difference, axis=1).mean())


def test_recovers_affines_whatever_the_axes(template, landmarks_N3):
    errors = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = random_affine(rng, degrees=30, scale=0.3, shift=30)
        axes = np.eye(3) if seed % 2 else rotation(rng.normal(size=3), rng.uniform(-25, 25))
        if seed == 4:
            axes = np.diag([1.0, -1.0, 1.0])[[1, 0, 2]]  # permuted and flipped, still right-handed
        result = register(lung_image(truth, spacing=2.8, direction_33=axes), template, CONFIG)
        errors.append(landmark_error(result.affine_44, truth, landmarks_N3))
        assert min(result.dice, result.dice_right, result.dice_left) > 0.95
    assert np.mean(errors) <= 0.5
    assert max(errors) <= 0.8


def test_far_away_scan(template, landmarks_N3):
    truth = random_affine(np.random.default_rng(20), degrees=10, scale=0.1, shift=10)
    truth[:3, 3] += (400, -900, 1500)  # scanners put their origin anywhere
    result = register(lung_image(truth, spacing=3.0), template, CONFIG)
    assert landmark_error(result.affine_44, truth, landmarks_N3) <= 0.5


def test_thick_slices(template, landmarks_N3):
    truth = random_affine(np.random.default_rng(21), degrees=10, scale=0.2)
    result = register(lung_image(truth, spacing=(2.6, 2.6, 6.0)), template, CONFIG)
    assert landmark_error(result.affine_44, truth, landmarks_N3) <= 1.0


def test_a_cut_face_is_no_surface(template, landmarks_N3):
    errors = []
    for seed in range(3):
        truth = random_affine(np.random.default_rng(30 + seed), degrees=15, scale=0.2)
        result = register(lung_image(truth, spacing=2.8, cut=0.4), template, CONFIG)
        errors.append(landmark_error(result.affine_44, truth, landmarks_N3))
        assert result.dice < 0.93  # what is missing shows in the overlap
    assert np.mean(errors) <= 1.0


def test_the_same_twice(template):
    labels = lung_image(random_affine(np.random.default_rng(1)), spacing=3.0)
    first, second = register(labels, template, CONFIG), register(labels, template, CONFIG)
    np.testing.assert_array_equal(first.affine_44, second.affine_44)


@pytest.mark.parametrize(("label", "name"), [(RIGHT, "right"), (LEFT, "left")])
def test_a_missing_lung_is_named(template, label, name):
    with pytest.raises(ScanError, match=name) as caught:
        register(lung_image(spacing=3.0) * 1 & (150 - label), template, CONFIG)
    assert caught.value.code in ("one-lung", "no-lung")


def test_an_empty_mask_is_an_error(template):
    with pytest.raises(ScanError) as caught:
        register(lung_image(spacing=3.0) * 0, template, CONFIG)
    assert caught.value.code == "no-lung"
