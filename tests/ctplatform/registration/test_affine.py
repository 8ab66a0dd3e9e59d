"""Affine matrices against SimpleITK and SciPy."""

from __future__ import annotations

import numpy as np

from ctplatform.registration.affine import to_transform, transform_points
from tests.ctplatform.chest import random_affine


def test_transform_agrees_with_simpleitk():
    affine = random_affine(np.random.default_rng(5))
    point = (10.0, -20.0, 30.0)
    expected = to_transform(affine).TransformPoint(point)
    np.testing.assert_allclose(transform_points(affine, np.array([point]))[0], expected)
