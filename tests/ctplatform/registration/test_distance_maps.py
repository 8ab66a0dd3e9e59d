"""Signed distances against analytic surfaces, and their interpolation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.registration.distance_maps import DistanceMaps, distance_maps, interpolate, lung_moments


def test_interpolation_is_exact_for_trilinear_fields():
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (5, 6, 7)), indexing="ij")
    field = np.stack([2 * x - y + 0.5 * z, x * y], axis=-1)
    points = np.random.default_rng(0).uniform(0, (6, 5, 4), size=(50, 3))
    value, gradient = interpolate(field, points)
    np.testing.assert_allclose(value[:, 0], points @ (2, -1, 0.5), atol=1e-5)
    np.testing.assert_allclose(value[:, 1], points[:, 0] * points[:, 1], atol=1e-5)
    np.testing.assert_allclose(gradient[:, :, 0], np.tile((2, -1, 0.5), (50, 1)), atol=1e-5)
    np.testing.assert_allclose(gradient[:, 0, 1], points[:, 1], atol=1e-5)


def spheres(radius: float = 40.0, spacing: float = 2.0) -> sitk.Image:
    """Two spheres of known surface, 100 mm apart, around 0 mm."""
    z, y, x = np.meshgrid(*(np.arange(-n, n + 0.1, spacing) for n in (60, 60, 110)), indexing="ij")
    labels = np.zeros(x.shape, np.uint8)
    labels[(x + 50) ** 2 + y**2 + z**2 < radius**2] = RIGHT
    labels[(x - 50) ** 2 + y**2 + z**2 < radius**2] = LEFT
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing([spacing] * 3)
    image.SetOrigin((-110.0, -60.0, -60.0))
    return image


def points_of(maps: DistanceMaps) -> np.ndarray:
    """Positions of all grid points, LPS mm [z, y, x, 3]."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in maps.labels_ZYX.shape), indexing="ij"), -1)[
        ..., ::-1
    ]
    return index * maps.spacing @ maps.direction_33.T + maps.origin_3


@pytest.mark.parametrize("spacing", [2.0, 3.0, 4.5])
def test_distances_to_spheres(spacing):
    maps = distance_maps(spheres(), spacing=spacing, margin=20.0)
    points = points_of(maps)
    for channel, centre in enumerate((-50, 50)):
        true = np.linalg.norm(points - (centre, 0, 0), axis=-1) - 40.0
        near = np.abs(true) < 10
        error = maps.sdf_ZYXC[..., channel][near] - true[near]
        assert abs(error.mean()) < 0.25 * spacing, "the surface is not shifted"
        assert np.abs(error).max() < spacing + 1.0


def test_axes_of_the_mask_do_not_move_the_distances():
    turned = sitk.DICOMOrient(spheres(), "SAR")
    straight, other = (distance_maps(image, spacing=3.0, margin=20.0) for image in (spheres(), turned))
    probes = np.random.default_rng(0).uniform(-50, 50, (200, 3)) * (1.4, 1, 1)
    first, second = (interpolate(maps.sdf_ZYXC, maps.to_index(probes))[0] for maps in (straight, other))
    np.testing.assert_allclose(first, second, atol=1.5)
    assert np.abs(first - second).mean() < 0.3


def test_indices_and_the_ends_of_the_scan():
    maps = distance_maps(spheres(), spacing=3.0, margin=20.0)
    corners = np.array(
        [[-110.9, -60.9, -60.9], [110.9, 60.9, 60.9], [-111.1, 0, 0], [0, 61.1, 0], [0, 0, -61.1]]
    )
    assert maps.inside_scan(maps.to_index(corners)).tolist() == [True, True, False, False, False]
    points = points_of(maps)[3, 4]
    np.testing.assert_allclose(maps.to_index(points)[:, 0], np.arange(len(points)), atol=1e-9)


def test_moments_of_spheres():
    moments = lung_moments(distance_maps(spheres(), spacing=2.0, margin=10.0))
    np.testing.assert_allclose(moments.mean_3, 0, atol=0.2)
    np.testing.assert_allclose(moments.right_to_left_3, (100, 0, 0), atol=0.2)
    across = 40.0**2 / 5  # variance of a ball along one axis
    np.testing.assert_allclose(np.diag(moments.covariance_33), (across + 50**2, across, across), rtol=0.02)


@pytest.mark.parametrize(("kept", "missing"), [(RIGHT, "left"), (LEFT, "right")])
def test_moments_of_one_lung_are_an_error(kept, missing):
    one = sitk.Cast(spheres() == kept, sitk.sitkUInt8) * kept
    with pytest.raises(ScanError, match=missing) as caught:
        lung_moments(distance_maps(one, spacing=3.0, margin=10.0))
    assert caught.value.code == "one-lung"


@pytest.mark.parametrize("margin", [4.0, 30.0, 60.0])
def test_a_reach_changes_no_distance_within_it(margin):
    """Also where the box around a lung would extend beyond the grid."""
    labels_ZYX = np.zeros((30, 30, 40), np.uint8)
    labels_ZYX[5:25, 5:25, 2:17], labels_ZYX[5:25, 5:25, 23:38] = RIGHT, LEFT
    labels = sitk.GetImageFromArray(labels_ZYX)
    labels.SetSpacing((4.0, 4.0, 4.0))
    whole, near = (
        distance_maps(labels, spacing=3.0, margin=margin, reach=reach).sdf_ZYXC for reach in (math.inf, 25.0)
    )
    within = np.abs(whole) <= 25.0
    assert 0 < within.sum() < within.size
    assert np.array_equal(near[within], whole[within])
    assert (np.abs(near[~within]) > 25.0).all()
