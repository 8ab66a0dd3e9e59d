"""Levenberg-Marquardt between the distance maps of an atlas and of a scan, and the affines to start from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.registration.affine import Array, affine_from, rotation_about, rotation_between, square_root
from ctplatform.registration.distance_maps import DistanceMaps, interpolate, shape_of
from ctplatform.registration.template import COARSE_CLIP_MM

if TYPE_CHECKING:
    from ctplatform.registration.template import Template

SEARCH_POINTS = 400
STARTS = 4
"""Starts that are refined, the best of all that are tried."""

STRETCH = (0.4, 2.2)
"""No affine that scales any direction by less or more is tried."""

LEAST_GAIN = 1e-4

SCALE_MM = 100.0
"""Makes the linear part of a step comparable with its translation."""


@dataclass(frozen=True)
class Fitted:
    affine_44: NDArray[np.float64]
    cost: float
    iterations: int


class Fit:
    """Least squares between clipped distances of the atlas at its points and of the scan at the mapped
    points."""

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
        self.centre_3 = template.shape.mean_3
        self.points_N3 = template.points_N3[chosen] - self.centre_3
        self.values_NC = np.clip(template.values_NC[chosen], -clip, clip)
        self.design_N4 = np.concatenate(
            [self.points_N3 / SCALE_MM, np.ones((len(chosen), 1))], axis=1
        ).astype(np.float32)
        self.to_mm_33 = (maps.direction_33 / maps.spacing).astype(np.float32)

    def residuals(self, affine_44: Array) -> tuple[Array, Array, float]:
        """Residuals [N,C], their gradients by position in mm [N,3,C], and the mean squared residual."""
        moved_N3 = self.points_N3 @ affine_44[:3, :3].T + (
            affine_44[:3, :3] @ self.centre_3 + affine_44[:3, 3]
        )
        index_N3 = self.maps.to_index(moved_N3)
        inside_N = self.maps.inside_scan(index_N3)
        value_NC, gradient_N3C = interpolate(self.maps.sdf_ZYXC, index_N3)
        live_NC = (np.abs(value_NC) < self.clip) & inside_N[:, None]
        residual_NC = np.where(
            inside_N[:, None], np.clip(value_NC, -self.clip, self.clip) - self.values_NC, 0
        )
        stretch = np.linalg.svd(affine_44[:3, :3], compute_uv=False)
        # A scan of few slices could be fitted by a collapsed atlas, or by one that lies outside it.
        if inside_N.mean() < 0.25 or stretch[-1] < STRETCH[0] or stretch[0] > STRETCH[1]:
            return residual_NC, gradient_N3C, math.inf
        gradient_N3C = np.einsum("ij,njc->nic", self.to_mm_33, gradient_N3C * live_NC[:, None, :])
        return residual_NC, gradient_N3C, float((residual_NC**2).sum() / inside_N.sum())

    def run(self, start_44: Array, *, iterations: int, tolerance: float = 0.01) -> Fitted:
        """Levenberg-Marquardt from one start, until a step moves nothing by more than `tolerance` mm, about, or gains
        less than a ten-thousandth of the cost."""
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
        return Fitted(affine_44, cost, count)

    def _normal_equations(self, residual_NC: Array, gradient_N3C: Array) -> tuple[Array, Array]:
        hessian, slope = np.zeros((12, 12)), np.zeros(12)
        for channel in range(residual_NC.shape[1]):
            live = np.flatnonzero(np.abs(gradient_N3C[:, :, channel]).sum(axis=1) > 0)
            jacobian = gradient_N3C[live, :, channel][:, :, None] * self.design_N4[live][:, None, :]
            jacobian = jacobian.reshape(len(live), 12)
            hessian += jacobian.T @ jacobian
            slope += jacobian.T @ residual_NC[live, channel].astype(np.float32)
        return hessian, slope

    def _moved(self, affine_44: Array, step_34: Array) -> NDArray[np.float64]:
        linear_33 = affine_44[:3, :3] + step_34[:, :3] / SCALE_MM
        middle_3 = affine_44[:3, :3] @ self.centre_3 + affine_44[:3, 3] + step_34[:, 3]
        return affine_from(linear_33, middle_3 - linear_33 @ self.centre_3)


def starting_affines(template: Template, maps: DistanceMaps) -> list[NDArray[np.float64]]:
    """The best few of many cheap guesses: scale only, or moments matched for turns about one line."""
    scan, atlas = shape_of(maps), template.shape
    scales_3 = np.sqrt(np.diag(scan.covariance_33) / np.diag(atlas.covariance_33)).clip(0.5, 2)
    guesses = [np.diag(scales_3), np.eye(3)]
    to_scan_33, _ = square_root(scan.covariance_33)
    _, from_atlas_33 = square_root(atlas.covariance_33)
    _, from_scan_33 = square_root(scan.covariance_33)
    white_scan_3, white_atlas_3 = from_scan_33 @ scan.side_3, from_atlas_33 @ atlas.side_3
    # For a true affine the whitened lungs differ by a rotation; the line between the lungs fixes it but for
    # one angle.
    align_33 = rotation_between(white_atlas_3, white_scan_3)
    for angle in np.arange(0.0, 360.0, 15.0):
        turn_33 = rotation_about(white_scan_3, math.radians(angle))
        linear_33 = to_scan_33 @ turn_33 @ align_33 @ from_atlas_33
        if np.trace(linear_33) > 0.5:  # a person on their head is no start
            guesses.append(linear_33)
    candidates = [affine_from(linear, scan.mean_3 - linear @ atlas.mean_3) for linear in guesses]
    search = Fit(template, maps, clip=COARSE_CLIP_MM, points=SEARCH_POINTS)
    costs = [search.residuals(candidate)[2] for candidate in candidates]
    order = np.argsort(costs, kind="stable")
    if not np.isfinite(costs[order[0]]):
        raise ScanError(
            "too little lung lies inside the scan to align it with the atlas",
            "Use a scan of the whole chest",
            code="registration",
        )
    return [candidates[i] for i in order[:STARTS]]
