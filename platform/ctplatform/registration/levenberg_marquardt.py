"""Levenberg-Marquardt fit of an affine between the distance maps of an atlas and a scan, and the affines to start from.

Source: Marquardt, J. Soc. Indust. Appl. Math. 1963, doi:10.1137/0111030.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.registration.affine import (
    Array,
    affine_from,
    matrix_square_root,
    rotation_about,
    rotation_between,
)
from ctplatform.registration.distance_maps import DistanceMaps, interpolate, lung_moments
from ctplatform.registration.template import COARSE_CLIP_MM, Template

SEARCH_POINTS = 400
"""Atlas points by which the starts are compared."""

STARTS = 4
"""Starts that are refined: the best of all candidates."""

STRETCH = (0.4, 2.2)
"""Bounds of the scaling in any direction; affines outside them have infinite cost."""

LEAST_GAIN = 1e-4
"""Fraction of the cost that a step must gain to be followed by another."""

SCALE_MM = 100.0
"""Makes the linear part of a step comparable with its translation."""


@dataclass(frozen=True)
class FitResult:
    """Result of one minimisation: atlas LPS mm -> scan LPS mm, mean squared residual in mm2, steps taken."""

    affine_44: NDArray[np.float64]
    cost: float
    iterations: int


class DistanceFit:
    """Least squares between clipped distances of the atlas at its points and of the scan at the mapped points.

    Args:
        clip: distances are clipped to this, mm.
        points: how many atlas points, the first of the template; None: all.
        band: only points closer to the atlas surface than this, mm; None: all.
    """

    def __init__(
        self,
        template: Template,
        maps: DistanceMaps,
        *,
        clip: float,
        points: int | None = None,
        band: float | None = None,
    ) -> None:
        chosen = (
            np.arange(len(template.points_N3)) if band is None else np.flatnonzero(template.band_N < band)
        )
        chosen = chosen[:points]
        self.maps, self.clip = maps, clip
        self.centre_3 = template.moments.mean_3
        self.points_N3 = template.points_N3[chosen] - self.centre_3
        self.values_NC = np.clip(template.values_NC[chosen], -clip, clip)
        self.design_N4 = np.concatenate(
            [self.points_N3 / SCALE_MM, np.ones((len(chosen), 1))], axis=1
        ).astype(np.float32)
        self.to_mm_33 = (maps.direction_33 / maps.spacing).astype(np.float32)

    def residuals(self, affine_44: Array) -> tuple[Array, Array, float]:
        """Residuals [N,C] in mm, their gradients by position [N,3,C], and the mean squared residual in mm2.

        The mean is infinite where less than a quarter of the points lies in the scan or the scaling is out of bounds.
        """
        moved_N3 = self.points_N3 @ affine_44[:3, :3].T + (
            affine_44[:3, :3] @ self.centre_3 + affine_44[:3, 3]
        )
        index_N3 = np.asfortranarray(self.maps.to_index(moved_N3))
        inside_N = self.maps.inside_scan(index_N3)
        value_NC, gradient_N3C = interpolate(self.maps.sdf_ZYXC, index_N3)
        counted_NC = (np.abs(value_NC) < self.clip) & inside_N[:, None]
        residual_NC = np.where(
            inside_N[:, None], np.clip(value_NC, -self.clip, self.clip) - self.values_NC, 0
        )
        stretch = np.linalg.svd(affine_44[:3, :3], compute_uv=False)
        # A scan of few slices could be fitted by a collapsed atlas, or by one that lies outside it.
        if inside_N.mean() < 0.25 or stretch[-1] < STRETCH[0] or stretch[0] > STRETCH[1]:
            return residual_NC, gradient_N3C, math.inf
        by_index = np.moveaxis(gradient_N3C * counted_NC[:, None, :], 1, 0)
        by_mm = [a * by_index[0] + b * by_index[1] + c * by_index[2] for a, b, c in self.to_mm_33]
        # Point by point, as the sum of rounded numbers depends on their order.
        squares = np.ascontiguousarray(residual_NC) ** 2
        return residual_NC, np.stack(by_mm).transpose(1, 0, 2), float(squares.sum() / inside_N.sum())

    def minimise(self, start_44: Array, *, iterations: int, tolerance: float = 0.01) -> FitResult:
        """Levenberg-Marquardt from one start, until a step moves no point by more than about `tolerance` mm, or
        gains less than `LEAST_GAIN` of the cost."""
        affine_44, damping, count = np.array(start_44, np.float64), 1e-3, 0
        residual_NC, gradient_N3C, cost = self.residuals(affine_44)
        while count < iterations:
            count += 1
            hessian, slope = self._normal_equations(residual_NC, gradient_N3C)
            for _ in range(6):
                damped = hessian + damping * np.diag(np.diag(hessian) + 1e-6)
                step_34 = np.linalg.solve(damped, -slope).reshape(3, 4)
                trial_44 = self._moved(affine_44, step_34)
                residual_NC, gradient_N3C, trial_cost = self.residuals(trial_44)
                if trial_cost < cost:
                    break
                damping *= 8
            else:
                break
            gain = cost - trial_cost
            affine_44, cost, damping = trial_44, trial_cost, max(damping / 4, 1e-6)
            if np.abs(step_34).max() < tolerance or gain < LEAST_GAIN * cost:
                break
        return FitResult(affine_44, cost, count)

    def _normal_equations(self, residual_NC: Array, gradient_N3C: Array) -> tuple[Array, Array]:
        hessian, slope = np.zeros((12, 12)), np.zeros(12)
        for channel in range(residual_NC.shape[1]):
            counted = np.flatnonzero(np.abs(gradient_N3C[:, :, channel]).sum(axis=1) > 0)
            jacobian = gradient_N3C[counted, :, channel][:, :, None] * self.design_N4[counted][:, None, :]
            jacobian = jacobian.reshape(len(counted), 12)
            hessian += jacobian.T @ jacobian
            slope += jacobian.T @ residual_NC[counted, channel].astype(np.float32)
        return hessian, slope

    def _moved(self, affine_44: Array, step_34: Array) -> NDArray[np.float64]:
        linear_33 = affine_44[:3, :3] + step_34[:, :3] / SCALE_MM
        middle_3 = affine_44[:3, :3] @ self.centre_3 + affine_44[:3, 3] + step_34[:, 3]
        return affine_from(linear_33, middle_3 - linear_33 @ self.centre_3)


def starting_affines(template: Template, maps: DistanceMaps) -> list[NDArray[np.float64]]:
    """The best few of many candidates: scaling only, or moments matched, with rotations about one line.

    Raises:
        ScanError: registration, where too little lung lies inside the scan; one-lung.
    """
    scan, atlas = lung_moments(maps), template.moments
    scales_3 = np.sqrt(np.diag(scan.covariance_33) / np.diag(atlas.covariance_33)).clip(0.5, 2)
    linear_parts = [np.diag(scales_3), np.eye(3)]
    to_scan_33, _ = matrix_square_root(scan.covariance_33)
    _, from_atlas_33 = matrix_square_root(atlas.covariance_33)
    _, from_scan_33 = matrix_square_root(scan.covariance_33)
    white_scan_3, white_atlas_3 = from_scan_33 @ scan.right_to_left_3, from_atlas_33 @ atlas.right_to_left_3
    # Lungs that differ by an affine differ by a rotation once whitened; the line between the lungs fixes it but for
    # one angle.
    align_33 = rotation_between(white_atlas_3, white_scan_3)
    for angle in np.arange(0.0, 360.0, 15.0):
        turn_33 = rotation_about(white_scan_3, math.radians(angle))
        linear_33 = to_scan_33 @ turn_33 @ align_33 @ from_atlas_33
        if np.trace(linear_33) > 0.5:  # not upside down
            linear_parts.append(linear_33)
    candidates = [affine_from(linear, scan.mean_3 - linear @ atlas.mean_3) for linear in linear_parts]
    search = DistanceFit(template, maps, clip=COARSE_CLIP_MM, points=SEARCH_POINTS)
    costs = [search.residuals(candidate)[2] for candidate in candidates]
    order = np.argsort(costs, kind="stable")
    if not np.isfinite(costs[order[0]]):
        raise ScanError(
            "too little lung lies inside the scan to align it with the atlas",
            "Use a scan of the whole chest",
            code="registration",
        )
    return [candidates[i] for i in order[:STARTS]]
