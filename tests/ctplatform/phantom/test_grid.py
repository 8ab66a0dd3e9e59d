"""Resampling between grids."""

from __future__ import annotations

import numpy as np

from ctplatform.phantom.grid import Box, resample


def test_resampling_is_exact_for_linear_fields() -> None:
    coarse = Box(np.full(3, -50.0), np.full(3, 5.0), np.array([21, 21, 21]))
    fine = Box(np.array([-31.0, -28.5, -30.2]), np.array([1.7, 1.9, 2.3]), np.array([30, 25, 20]))
    weights, offset = (0.3, -0.2, 0.7), 4.0
    got = resample(coarse.linear(weights, offset), coarse, fine)
    np.testing.assert_allclose(got, fine.linear(weights, offset), atol=1e-3)
