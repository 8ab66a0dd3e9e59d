"""Registration against affines that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import RegistrationConfig
from ctplatform.errors import ScanError, StageError
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.registration.affine import to_transform, transform_points
from ctplatform.registration.affine_registration import register
from ctplatform.registration.distance_maps import interpolate
from ctplatform.registration.mean_template import make_mean_template
from ctplatform.registration.template import Template
from tests.ctplatform.chest import lung_image, random_affine, rotation

CONFIG = RegistrationConfig.model_validate({})


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.from_image(lung_image(spacing=2.0), config=CONFIG)


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


def test_template_files(tmp_path, template):
    sitk.WriteImage(template.labels, str(tmp_path / "lungs.nii.gz"))
    again = Template.read(tmp_path / "lungs.nii.gz", config=CONFIG)
    np.testing.assert_allclose(again.points_N3, template.points_N3, atol=1e-3)
    (tmp_path / "text.nii.gz").write_text("not an image")
    for bad in ("missing.nii.gz", "text.nii.gz"):
        with pytest.raises(StageError, match=bad):
            Template.read(tmp_path / bad)


def test_interpolation_is_exact_for_trilinear_fields():
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (5, 6, 7)), indexing="ij")
    field = np.stack([2 * x - y + 0.5 * z, x * y], axis=-1)
    points = np.random.default_rng(0).uniform(0, (6, 5, 4), size=(50, 3))
    value, gradient = interpolate(field, points)
    np.testing.assert_allclose(value[:, 0], points @ (2, -1, 0.5), atol=1e-5)
    np.testing.assert_allclose(value[:, 1], points[:, 0] * points[:, 1], atol=1e-5)
    np.testing.assert_allclose(gradient[:, :, 0], np.tile((2, -1, 0.5), (50, 1)), atol=1e-5)
    np.testing.assert_allclose(gradient[:, 0, 1], points[:, 1], atol=1e-5)


def test_transform_agrees_with_simpleitk():
    affine = random_affine(np.random.default_rng(5))
    point = (10.0, -20.0, 30.0)
    expected = to_transform(affine).TransformPoint(point)
    np.testing.assert_allclose(transform_points(affine, np.array([point]))[0], expected)


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


def test_one_mask_is_too_few(masks):
    with pytest.raises(StageError, match="at least 2"):
        make_mean_template(masks[:1])
