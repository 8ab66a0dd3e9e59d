"""Affine matrices against SimpleITK and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ctplatform.registration.affine import (
    affine_from,
    matrix_square_root,
    rotation_about,
    rotation_between,
    to_transform,
    transform_points,
)
from tests.ctplatform.chest import random_affine


def test_transform_agrees_with_simpleitk():
    affine = random_affine(np.random.default_rng(5))
    point = (10.0, -20.0, 30.0)
    expected = to_transform(affine).TransformPoint(point)
    np.testing.assert_allclose(transform_points(affine, np.array([point]))[0], expected)


def test_rotations_agree_with_scipy():
    rng = np.random.default_rng(1)
    for _ in range(20):
        axis, angle = rng.normal(size=3), rng.uniform(-6, 6)
        expected = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
        np.testing.assert_allclose(rotation_about(axis, angle), expected, atol=1e-12)


def test_rotations_between_directions():
    rng = np.random.default_rng(2)
    pairs = [(rng.normal(size=3), rng.normal(size=3)) for _ in range(20)]
    same = rng.normal(size=3)
    for a, b in [*pairs, (same, same), (same, -same)]:
        turn = rotation_between(a, b)
        np.testing.assert_allclose(turn @ (a / np.linalg.norm(a)), b / np.linalg.norm(b), atol=1e-7)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)


def test_square_roots_of_covariances():
    rng = np.random.default_rng(3)
    covariance = np.cov(rng.normal(size=(3, 50)) * np.array([[30.0], [50.0], [70.0]]))
    root, inverse = matrix_square_root(covariance)
    np.testing.assert_allclose(root, root.T, atol=1e-9)
    np.testing.assert_allclose(root @ root, covariance, rtol=1e-9)
    np.testing.assert_allclose(root @ inverse, np.eye(3), atol=1e-9)
    flat = np.diag([100.0, 100.0, 0.0])
    np.testing.assert_allclose(np.diag(matrix_square_root(flat)[0]), [10, 10, 1])


def test_matrices_of_their_parts():
    linear, translation = random_affine(np.random.default_rng(4))[:3, :3], np.array([1.0, 2.0, 3.0])
    points = np.random.default_rng(5).normal(size=(9, 3))
    np.testing.assert_allclose(
        transform_points(affine_from(linear, translation), points), points @ linear.T + translation
    )
