"""Affine registration of a scan's lung mask to the atlas lung mask.

Both masks become clipped signed distance maps, one a lung, on a few-millimetre grid; Levenberg-Marquardt
fits the twelve numbers of the affine to them. Beyond the scan's ends the maps are replicated, so a cut face
is no surface, and atlas points that fall outside the scan do not count: a lung that is only partly in the
scan pulls nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.config import RegistrationConfig
from ctplatform.errors import ScanError, StageError

RIGHT, LEFT = 50, 100
"""Labels of the patient's right and left lung, as in the published atlas."""

COARSE_CLIP_MM = 25.0
FINE_CLIP_MM = 5.0
FINE_BAND_MM = 5.0
COARSE_POINTS = 1500
SEARCH_POINTS = 400
STARTS = 4
"""Starts that are refined, the best of all that are tried."""

STRETCH = (0.4, 2.2)
"""No affine that scales any direction by less or more is tried."""

SCALE_MM = 100.0
"""Makes the linear part of a step comparable with its translation."""

DEFAULTS = RegistrationConfig.model_validate({})
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Registration:
    """Result of one registration.

    Attributes:
        affine_44: float64, atlas LPS mm -> scan LPS mm.
        dice: overlap of both lungs after registration, on the atlas grid.
        dice_right, dice_left: the same, one lung each.
        iterations: Levenberg-Marquardt steps of the accepted start.
    """

    affine_44: NDArray[np.float64]
    dice: float
    dice_right: float
    dice_left: float
    iterations: int


@dataclass(frozen=True)
class DistanceMaps:
    """Signed distances (mm, negative inside) of both lungs on a regular grid with the mask's own axes."""

    sdf_ZYXC: NDArray[np.float32]
    labels_ZYX: NDArray[np.uint8]
    spacing: float
    origin_3: NDArray[np.float64]
    direction_33: NDArray[np.float64]
    scan_low_3: NDArray[np.float64]
    scan_high_3: NDArray[np.float64]
    """Ends of the scan in this grid's continuous index, x,y,z."""

    def to_index(self, points_N3: Array) -> Array:
        """LPS mm -> continuous index x,y,z."""
        return (points_N3 - self.origin_3) @ self.direction_33 / self.spacing

    def inside_scan(self, index_N3: Array) -> NDArray[np.bool_]:
        """Which indices lie in the scan that the mask was made from."""
        return np.all((index_N3 >= self.scan_low_3) & (index_N3 <= self.scan_high_3), axis=1)

    def points(self, label: int) -> Array:
        """Voxel centres of one lung inside the scan, LPS mm [N,3]."""
        index_N3 = np.argwhere(self.labels_ZYX == label)[:, ::-1].astype(np.float64)
        index_N3 = index_N3[self.inside_scan(index_N3)]
        return index_N3 * self.spacing @ self.direction_33.T + self.origin_3


@dataclass(frozen=True)
class Shape:
    """Moments of a pair of lungs: what the starting transforms are made of (LPS mm)."""

    mean_3: NDArray[np.float64]
    covariance_33: NDArray[np.float64]
    side_3: NDArray[np.float64]
    """From the right lung's centroid to the left one's."""


class Template:
    """The atlas lung mask, with everything of it that a registration needs, computed once.

    Picklable, so a worker builds it once and registers thousands of scans.
    """

    def __init__(self, labels: sitk.Image, config: RegistrationConfig) -> None:
        self.labels = labels
        maps = distance_maps(labels, spacing=min(2.0, config.spacing_mm), margin=40.0)
        self.shape = _shape(maps)
        surface_ZYX = np.abs(maps.sdf_ZYXC).min(axis=-1)
        index_N3 = np.argwhere(surface_ZYX < COARSE_CLIP_MM)
        distance_N = surface_ZYX[tuple(index_N3.T)]
        # Denser near the surface, where the fine step works; the seed is part of the method, not of the
        # recipe.
        weight_N = np.where(distance_N < 4, 4.0, np.where(distance_N < 10, 2.0, 1.0))
        chosen = np.random.default_rng(0).choice(
            len(index_N3), min(config.points, len(index_N3)), replace=False, p=weight_N / weight_N.sum()
        )
        index_N3, self.band_N = index_N3[chosen], distance_N[chosen]
        self.points_N3 = index_N3[:, ::-1] * maps.spacing @ maps.direction_33.T + maps.origin_3
        self.values_NC = maps.sdf_ZYXC[tuple(index_N3.T)]
        grid = _grid_labels(labels, spacing=3.0)
        self._grid_labels_ZYX = sitk.GetArrayFromImage(grid)
        self._grid = (grid.GetSize(), grid.GetSpacing(), grid.GetOrigin(), grid.GetDirection())

    @classmethod
    def from_image(cls, labels: sitk.Image, *, config: RegistrationConfig) -> Template:
        """From a label image (50 right, 100 left).

        Raises:
            ScanError: a lung is missing in it.
        """
        return cls(labels, config)

    @classmethod
    def read(cls, path: str | Path, *, config: RegistrationConfig | None = None) -> Template:
        """From a file that SimpleITK reads.

        Raises:
            StageError: the file cannot be read or holds no pair of lungs.
        """
        try:
            labels = sitk.ReadImage(str(path), sitk.sitkUInt8)
            return cls(labels, config or DEFAULTS)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise StageError(
                f"the atlas lung mask {path} cannot be read ({reason})",
                "Check the path and the file",
                code="atlas",
            ) from None
        except ScanError as error:
            raise StageError(
                f"the atlas lung mask {path} is not usable: {error.problem}",
                f"Give a label image with {RIGHT} for the right and {LEFT} for the left lung",
                code="atlas",
            ) from None

    def dice(self, labels: sitk.Image, affine_44: Array) -> tuple[float, float, float]:
        """Dice of both lungs, of the right and of the left one, on the atlas grid."""
        size, spacing, origin, direction = self._grid
        moved = sitk.Resample(
            labels,
            size,
            to_transform(affine_44),
            sitk.sitkNearestNeighbor,
            origin,
            spacing,
            direction,
            0.0,
            sitk.sitkUInt8,
        )
        scan_ZYX, atlas_ZYX = sitk.GetArrayViewFromImage(moved), self._grid_labels_ZYX
        # The part of the scan's lungs that falls off the atlas grid counts as a miss.
        volume = abs(np.linalg.det(affine_44[:3, :3])) * math.prod(spacing)
        totals = _volumes(labels) / volume
        both = [int(((scan_ZYX == label) & (atlas_ZYX == label)).sum()) for label in (RIGHT, LEFT)]
        atlas = [int((atlas_ZYX == label).sum()) for label in (RIGHT, LEFT)]
        either = int(((scan_ZYX > 0) & (atlas_ZYX > 0)).sum())
        return (
            float(2 * either / (sum(atlas) + totals.sum())),
            float(2 * both[0] / (atlas[0] + totals[0])),
            float(2 * both[1] / (atlas[1] + totals[1])),
        )


def register(labels: sitk.Image, template: Template, config: RegistrationConfig) -> Registration:
    """Fit the affine that maps the atlas onto a scan's lungs.

    Args:
        labels: lung mask of the scan (50 right, 100 left), any direction matrix.

    Raises:
        ScanError: a lung is missing, or no start leads to an overlap.
    """
    maps = distance_maps(labels, spacing=config.spacing_mm, margin=30.0)
    starts = _starts(template, maps)
    coarse = _Fit(template, maps, clip=COARSE_CLIP_MM, points=COARSE_POINTS)
    refined = [coarse.run(start, iterations=config.iterations) for start in starts]
    best = min(refined, key=lambda fit: fit.cost)
    fine = _Fit(template, maps, clip=FINE_CLIP_MM, band=FINE_BAND_MM)
    final = fine.run(best.affine_44, iterations=config.iterations)
    affine_44 = final.affine_44
    if not np.isfinite(final.cost) or np.linalg.det(affine_44[:3, :3]) <= 0:
        raise ScanError(
            "the lung mask could not be aligned with the atlas",
            "Look at the scan's lung mask; a scan without both lungs cannot be used",
            code="registration",
        )
    dice, right, left = template.dice(labels, affine_44)
    return Registration(affine_44, dice, right, left, best.iterations + final.iterations)


def distance_maps(labels: sitk.Image, *, spacing: float, margin: float) -> DistanceMaps:
    """Signed distance maps of both lungs on a grid of `spacing` mm, `margin` mm wider than the lungs.

    Raises:
        ScanError: a lung is missing.
    """
    size_3 = np.array(labels.GetSize())
    voxel_3 = np.array(labels.GetSpacing())
    direction_33 = np.array(labels.GetDirection()).reshape(3, 3)
    low_3, high_3 = _bounds(labels)
    low_3, high_3 = low_3 * voxel_3 - margin, high_3 * voxel_3 + margin
    grid_3 = np.ceil((high_3 - low_3) / spacing).astype(int) + 1
    origin_3 = np.array(labels.GetOrigin()) + direction_33 @ low_3
    reference = sitk.Image([int(n) for n in grid_3], sitk.sitkUInt8)
    reference.SetSpacing([spacing] * 3)
    reference.SetOrigin(origin_3.tolist())
    reference.SetDirection(direction_33.ravel().tolist())
    labels_ZYX = np.zeros(grid_3[::-1].tolist(), np.uint8)
    sdf = []
    for label in (RIGHT, LEFT):
        # Linear, then halved: a nearest neighbour would shift the surface by up to half a voxel of either grid.
        share = sitk.Resample(
            labels == label, reference, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True
        )
        inside = share >= 0.5
        # Maurer measures to the centres of boundary voxels, so half-way between inner and outer ones is the surface,
        # whichever way it faces.
        to_inner = sitk.SignedMaurerDistanceMap(inside, False, False, True)
        to_outer = sitk.SignedMaurerDistanceMap(share < 0.5, True, False, True)
        sdf.append(0.5 * (sitk.GetArrayViewFromImage(to_inner) + sitk.GetArrayViewFromImage(to_outer)))
        labels_ZYX[sitk.GetArrayViewFromImage(inside) > 0] = label
    return DistanceMaps(
        sdf_ZYXC=np.stack(sdf, axis=-1),
        labels_ZYX=labels_ZYX,
        spacing=spacing,
        origin_3=origin_3,
        direction_33=direction_33,
        scan_low_3=(-0.5 * voxel_3 - low_3) / spacing,
        scan_high_3=((size_3 - 0.5) * voxel_3 - low_3) / spacing,
    )


def to_transform(affine_44: Array) -> sitk.AffineTransform:
    """A 4x4 matrix in LPS mm as SimpleITK's transform."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(np.asarray(affine_44[:3, :3], np.float64).ravel().tolist())
    transform.SetTranslation(np.asarray(affine_44[:3, 3], np.float64).tolist())
    return transform


def transform_points(affine_44: Array, points_N3: Array) -> NDArray[np.float64]:
    """Points [N,3] in LPS mm through a 4x4 matrix."""
    return np.asarray(points_N3, np.float64) @ affine_44[:3, :3].T + affine_44[:3, 3]


@dataclass(frozen=True)
class _Fitted:
    affine_44: NDArray[np.float64]
    cost: float
    iterations: int


class _Fit:
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

    def run(self, start_44: Array, *, iterations: int) -> _Fitted:
        """Levenberg-Marquardt from one start."""
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
            affine_44, cost, damping = trial_44, trial_cost, max(damping / 4, 1e-6)
            if np.abs(step_34).max() < 0.01:
                break
        return _Fitted(affine_44, cost, count)

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
        return _affine(linear_33, middle_3 - linear_33 @ self.centre_3)


def interpolate(field_ZYXC: NDArray[np.float32], index_N3: Array) -> tuple[Array, Array]:
    """Trilinear value [N,C] and gradient by index [N,3,C] (x,y,z); indices are clamped to the field."""
    nz, ny, nx, channels = field_ZYXC.shape
    clamped_N3 = np.clip(index_N3, 0, np.array([nx, ny, nz]) - 1.000001)
    low_N3 = clamped_N3.astype(np.int64)
    fraction = (clamped_N3 - low_N3).astype(np.float32)
    fx, fy, fz = fraction[:, 0:1], fraction[:, 1:2], fraction[:, 2:3]
    flat = field_ZYXC.reshape(-1, channels)
    base = (low_N3[:, 2] * ny + low_N3[:, 1]) * nx + low_N3[:, 0]
    corner = {
        (dx, dy, dz): flat[base + dx + nx * (dy + ny * dz)]
        for dx, dy, dz in itertools.product((0, 1), repeat=3)
    }
    along_x = {(y, z): corner[1, y, z] - corner[0, y, z] for y in (0, 1) for z in (0, 1)}
    edge = {(y, z): corner[0, y, z] + along_x[y, z] * fx for y in (0, 1) for z in (0, 1)}
    face = [edge[0, z] + (edge[1, z] - edge[0, z]) * fy for z in (0, 1)]
    gradient_x = (along_x[0, 0] * (1 - fy) + along_x[1, 0] * fy) * (1 - fz) + (
        along_x[0, 1] * (1 - fy) + along_x[1, 1] * fy
    ) * fz
    gradient_y = (edge[1, 0] - edge[0, 0]) * (1 - fz) + (edge[1, 1] - edge[0, 1]) * fz
    gradient_z = face[1] - face[0]
    return face[0] + gradient_z * fz, np.stack([gradient_x, gradient_y, gradient_z], axis=1)


def _starts(template: Template, maps: DistanceMaps) -> list[NDArray[np.float64]]:
    """The best few of many cheap guesses: scale only, or moments matched for turns about one line."""
    scan, atlas = _shape(maps), template.shape
    scales_3 = np.sqrt(np.diag(scan.covariance_33) / np.diag(atlas.covariance_33)).clip(0.5, 2)
    guesses = [np.diag(scales_3), np.eye(3)]
    to_scan_33, _ = _square_root(scan.covariance_33)
    _, from_atlas_33 = _square_root(atlas.covariance_33)
    _, from_scan_33 = _square_root(scan.covariance_33)
    white_scan_3, white_atlas_3 = from_scan_33 @ scan.side_3, from_atlas_33 @ atlas.side_3
    # For a true affine the whitened lungs differ by a rotation; the line between the lungs fixes it but for
    # one angle.
    align_33 = _rotation_between(white_atlas_3, white_scan_3)
    for angle in np.arange(0.0, 360.0, 15.0):
        turn_33 = _rotation_about(white_scan_3, math.radians(angle))
        linear_33 = to_scan_33 @ turn_33 @ align_33 @ from_atlas_33
        if np.trace(linear_33) > 0.5:  # a person on their head is no start
            guesses.append(linear_33)
    candidates = [_affine(linear, scan.mean_3 - linear @ atlas.mean_3) for linear in guesses]
    search = _Fit(template, maps, clip=COARSE_CLIP_MM, points=SEARCH_POINTS)
    costs = [search.residuals(candidate)[2] for candidate in candidates]
    order = np.argsort(costs, kind="stable")
    if not np.isfinite(costs[order[0]]):
        raise ScanError(
            "too little lung lies inside the scan to align it with the atlas",
            "Use a scan of the whole chest",
            code="registration",
        )
    return [candidates[i] for i in order[:STARTS]]


def _shape(maps: DistanceMaps) -> Shape:
    right_N3, left_N3 = maps.points(RIGHT), maps.points(LEFT)
    if len(right_N3) < 20 or len(left_N3) < 20:
        missing = "right" if len(right_N3) < 20 else "left"
        raise ScanError(
            f"the {missing} lung was not found",
            "Use a scan of the whole chest, or check the scan's lung mask",
            code="one-lung",
        )
    points_N3 = np.concatenate([right_N3, left_N3])
    return Shape(points_N3.mean(axis=0), np.cov(points_N3.T), left_N3.mean(axis=0) - right_N3.mean(axis=0))


def _bounds(labels: sitk.Image) -> tuple[Array, Array]:
    """First and last index of the mask, x,y,z, from a strided view (to about 2 mm)."""
    step = [max(1, int(2.0 / s)) for s in labels.GetSpacing()]
    view_ZYX = sitk.GetArrayViewFromImage(labels)[:: step[2], :: step[1], :: step[0]] > 0
    ends = [np.flatnonzero(view_ZYX.any(axis=axes)) for axes in ((0, 1), (0, 2), (1, 2))]
    if not all(len(end) for end in ends):
        raise ScanError(
            "no lung was found in the scan", "Check that the scan is a CT of the chest", code="no-lung"
        )
    return (
        np.array([end[0] * s for end, s in zip(ends, step)], float),
        np.array([(end[-1] + 1) * s for end, s in zip(ends, step)], float),
    )


def _volumes(labels: sitk.Image) -> Array:
    """Volumes of the right and the left lung, mm3."""
    counts = np.bincount(sitk.GetArrayViewFromImage(labels).ravel(), minlength=LEFT + 1)
    return counts[[RIGHT, LEFT]] * math.prod(labels.GetSpacing())


def _grid_labels(labels: sitk.Image, *, spacing: float) -> sitk.Image:
    """The label image on a coarser grid with the same extent."""
    size = [math.ceil(n * s / spacing) for n, s in zip(labels.GetSize(), labels.GetSpacing())]
    nearest = sitk.sitkNearestNeighbor
    return sitk.Resample(
        labels,
        size,
        sitk.Transform(),
        nearest,
        labels.GetOrigin(),
        [spacing] * 3,
        labels.GetDirection(),
        0.0,
        sitk.sitkUInt8,
    )


def _affine(linear_33: Array, translation_3: Array) -> NDArray[np.float64]:
    affine_44 = np.eye(4)
    affine_44[:3, :3], affine_44[:3, 3] = linear_33, translation_3
    return affine_44


def _square_root(covariance_33: Array) -> tuple[Array, Array]:
    """Symmetric square root and its inverse."""
    values, vectors = np.linalg.eigh(covariance_33)
    roots = np.sqrt(np.maximum(values, 1.0))
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def _rotation_about(axis_3: Array, angle: float) -> Array:
    """Rodrigues' rotation."""
    x, y, z = axis_3 / np.linalg.norm(axis_3)
    cross_33 = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross_33 + (1 - math.cos(angle)) * cross_33 @ cross_33


def _rotation_between(from_3: Array, to_3: Array) -> Array:
    """The smallest rotation that turns one direction into another."""
    a, b = from_3 / np.linalg.norm(from_3), to_3 / np.linalg.norm(to_3)
    axis_3 = np.cross(a, b)
    sine = float(np.linalg.norm(axis_3))
    if sine < 1e-9:
        return np.eye(3) if a @ b > 0 else _rotation_about(np.cross(a, [0.3, 0.5, 0.8]), math.pi)
    return _rotation_about(axis_3, math.atan2(sine, float(a @ b)))


def mean_template(masks: Sequence[sitk.Image], *, iterations: int = 2, spacing_mm: float = 1.0) -> sitk.Image:
    """Unbiased mean of affinely aligned lung masks (50 right, 100 left): see ctplatform.template."""
    from ctplatform import template  # it builds on this module

    return template.mean_template(masks, iterations=iterations, spacing_mm=spacing_mm)
