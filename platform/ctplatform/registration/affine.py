"""Affine transforms as 4x4 matrices in LPS mm, and rotations and square roots of matrices."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Array = NDArray[np.floating]


def to_transform(affine_44: Array) -> sitk.AffineTransform:
    """A 4x4 matrix in LPS mm as SimpleITK's transform."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(np.asarray(affine_44[:3, :3], np.float64).ravel().tolist())
    transform.SetTranslation(np.asarray(affine_44[:3, 3], np.float64).tolist())
    return transform


def transform_points(affine_44: Array, points_N3: Array) -> NDArray[np.float64]:
    """Points [N,3] in LPS mm through a 4x4 matrix."""
    return np.asarray(points_N3, np.float64) @ affine_44[:3, :3].T + affine_44[:3, 3]


def affine_from(linear_33: Array, translation_3: Array) -> NDArray[np.float64]:
    """A 4x4 matrix of its linear part and translation in mm."""
    affine_44 = np.eye(4)
    affine_44[:3, :3], affine_44[:3, 3] = linear_33, translation_3
    return affine_44


def matrix_square_root(covariance_33: Array) -> tuple[Array, Array]:
    """Symmetric square root of a covariance (mm2) and its inverse; variances below 1 mm2 are raised to it."""
    values, vectors = np.linalg.eigh(covariance_33)
    roots = np.sqrt(np.maximum(values, 1.0))
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def rotation_about(axis_3: Array, angle: float) -> Array:
    """Rotation about an axis by an angle in radians: Rodrigues' formula."""
    x, y, z = axis_3 / np.linalg.norm(axis_3)
    cross_33 = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation_33: Array = np.eye(3) + math.sin(angle) * cross_33 + (1 - math.cos(angle)) * cross_33 @ cross_33
    return rotation_33


def rotation_between(from_3: Array, to_3: Array) -> Array:
    """The smallest rotation that turns one direction into another."""
    a, b = from_3 / np.linalg.norm(from_3), to_3 / np.linalg.norm(to_3)
    axis_3 = np.cross(a, b)
    sine = float(np.linalg.norm(axis_3))
    if sine < 1e-9:
        return np.eye(3) if a @ b > 0 else rotation_about(np.cross(a, [0.3, 0.5, 0.8]), math.pi)
    return rotation_about(axis_3, math.atan2(sine, float(a @ b)))
