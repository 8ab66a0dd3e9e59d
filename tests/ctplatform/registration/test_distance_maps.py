"""Signed distances against analytic surfaces, and their interpolation."""

from __future__ import annotations

import numpy as np

from ctplatform.registration.distance_maps import interpolate


def test_interpolation_is_exact_for_trilinear_fields():
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (5, 6, 7)), indexing="ij")
    field = np.stack([2 * x - y + 0.5 * z, x * y], axis=-1)
    points = np.random.default_rng(0).uniform(0, (6, 5, 4), size=(50, 3))
    value, gradient = interpolate(field, points)
    np.testing.assert_allclose(value[:, 0], points @ (2, -1, 0.5), atol=1e-5)
    np.testing.assert_allclose(value[:, 1], points[:, 0] * points[:, 1], atol=1e-5)
    np.testing.assert_allclose(gradient[:, :, 0], np.tile((2, -1, 0.5), (50, 1)), atol=1e-5)
    np.testing.assert_allclose(gradient[:, 0, 1], points[:, 1], atol=1e-5)
