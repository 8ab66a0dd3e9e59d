"""Volumes drawn into a grid."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.phantom.drawing import splat, stamp_ellipsoids
from ctplatform.phantom.grid import Box


def test_ellipsoids_and_threads_cover_their_volume() -> None:
    box = Box(np.zeros(3), np.array([1.5, 1.5, 2.0]), np.array([40, 40, 30]))
    alpha = np.zeros(box.shape, np.float32)
    centres = np.array([[20.3, 20.1, 20.7], [40.2, 40.9, 41.1]])
    radii = np.array([[6.0, 5.0, 7.0], [4.0, 4.0, 4.0]])
    stamp_ellipsoids(alpha, box, centres, radii)
    want = 4 / 3 * np.pi * radii.prod(axis=1).sum()
    assert alpha.sum() * np.prod(box.spacing) == pytest.approx(want, rel=0.06)
    points = np.random.default_rng(0).uniform(10, 40, (500, 3))
    mass = splat(box, points, np.full(500, 0.3))
    assert mass.sum() * np.prod(box.spacing) == pytest.approx(150, rel=1e-4)
