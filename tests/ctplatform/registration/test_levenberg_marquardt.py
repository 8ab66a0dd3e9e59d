"""The fit: its gradient, its minimum, its bounds, and the affines that it starts from."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.errors import ScanError
from ctplatform.registration.distance_maps import DistanceMaps, distance_maps
from ctplatform.registration.levenberg_marquardt import STARTS, DistanceFit, starting_affines
from tests.ctplatform.chest import lung_image, random_affine


@pytest.fixture(scope="module")
def truth_44() -> np.ndarray:
    return random_affine(np.random.default_rng(3), degrees=12, scale=0.15, shift=20)


@pytest.fixture(scope="module")
def maps(truth_44) -> DistanceMaps:
    return distance_maps(lung_image(truth_44, spacing=3.0), spacing=4.0, margin=30.0)


def test_gradients_are_those_of_differences(template, maps, truth_44):
    """Residuals of points away from voxel faces, where a trilinear field has its gradient."""
    fit = DistanceFit(template, maps, clip=25.0, points=800)
    residual, gradient, _ = fit.residuals(truth_44)
    step = 1e-3
    for axis in range(3):
        moved = truth_44.copy()
        moved[axis, 3] += step
        after, _, _ = fit.residuals(moved)
        difference = (after - residual) / step
        agree = np.abs(difference - gradient[:, axis]) < 0.02
        assert agree.mean() > 0.98


def test_minimising_never_raises_the_cost_and_ends_near_the_truth(template, maps, truth_44):
    fit = DistanceFit(template, maps, clip=25.0, points=1500)
    start = truth_44.copy()
    start[:3, 3] += (8.0, -6.0, 5.0)
    costs = [fit.residuals(start)[2]]
    costs += [fit.minimise(start, iterations=n).cost for n in (1, 2, 4, 20)]
    assert costs == sorted(costs, reverse=True)
    result = fit.minimise(start, iterations=20)
    assert result.iterations < 20, "converged"
    np.testing.assert_allclose(result.affine_44[:3, 3], truth_44[:3, 3], atol=1.5)
    assert result.cost < 0.2 * costs[0]


def test_a_start_at_the_minimum_stays(template, maps, truth_44):
    fit = DistanceFit(template, maps, clip=25.0, points=1500)
    first = fit.minimise(truth_44, iterations=30, tolerance=1e-4)
    again = fit.minimise(first.affine_44, iterations=30)
    np.testing.assert_allclose(again.affine_44, first.affine_44, atol=0.05)
    assert again.iterations <= 2


def test_a_band_takes_the_points_near_the_surface(template, maps):
    whole, near = (DistanceFit(template, maps, clip=5.0, band=band) for band in (None, 5.0))
    assert len(near.points_N3) == (template.band_N < 5.0).sum() < len(whole.points_N3)


@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_collapsed_and_inflated_atlases_are_out_of_bounds(template, maps, truth_44, scale):
    fit = DistanceFit(template, maps, clip=25.0, points=500)
    assert np.isfinite(fit.residuals(truth_44)[2])
    scaled = truth_44.copy()
    scaled[:3, :3] *= scale
    assert fit.residuals(scaled)[2] == np.inf


def test_an_atlas_outside_the_scan_is_out_of_bounds(template, maps, truth_44):
    fit = DistanceFit(template, maps, clip=25.0, points=500)
    away = truth_44.copy()
    away[2, 3] += 1000.0
    assert fit.residuals(away)[2] == np.inf


def test_the_best_start_is_the_one_of_least_cost(template, maps):
    starts = starting_affines(template, maps)
    assert len(starts) == STARTS
    fit = DistanceFit(template, maps, clip=25.0, points=400)
    costs = [fit.residuals(start)[2] for start in starts]
    assert costs == sorted(costs)
    assert np.isfinite(costs[0])
    assert np.linalg.det(starts[0][:3, :3]) > 0, "no mirror image"


def test_a_scan_with_too_little_lung_has_no_start(template):
    """A thin slab of both lungs, far too low for any start to lie inside it."""
    slab = lung_image(spacing=4.0, cut=0.93)
    with pytest.raises(ScanError) as caught:
        starting_affines(template, distance_maps(slab, spacing=4.0, margin=30.0))
    assert caught.value.code in ("registration", "one-lung")
