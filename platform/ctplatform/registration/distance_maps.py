"""Signed distance maps of a pair of lungs, their interpolation with gradients, and the moments of the lungs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.lungs.coarse_grid import bounding_box
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.registration.affine import Array


@dataclass(frozen=True)
class DistanceMaps:
    """Signed distances (mm, negative inside) of both lungs on a regular grid with the mask's own axes.

    The last axis of `sdf_ZYXC` is right, left.
    """

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
        """Which indices lie in the scan that the mask was made from [N]."""
        inside_N: NDArray[np.bool_] = np.all(
            (index_N3 >= self.scan_low_3) & (index_N3 <= self.scan_high_3), axis=1
        )
        return inside_N

    def points(self, label: int) -> Array:
        """Voxel centres of one lung inside the scan, LPS mm [N,3]."""
        index_N3 = np.argwhere(self.labels_ZYX == label)[:, ::-1].astype(np.float64)
        index_N3 = index_N3[self.inside_scan(index_N3)]
        index_N3 *= self.spacing
        points_N3: Array = index_N3 @ self.direction_33.T
        points_N3 += self.origin_3
        return points_N3


def distance_maps(
    labels: sitk.Image, *, spacing: float, margin: float, reach: float = math.inf
) -> DistanceMaps:
    """Signed distance maps of both lungs on a grid of `spacing` mm, `margin` mm wider than the lungs.

    Args:
        reach: distances above this, mm, need not be exact; they are above it.

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
    sdf_ZYXC = np.empty((*labels_ZYX.shape, 2), np.float32)
    mask_ZYX = sitk.GetArrayViewFromImage(labels)  # NumPy compares faster than SimpleITK
    for channel, label in enumerate((RIGHT, LEFT)):
        # Linear, then cut at one half: nearest neighbour would shift the surface by up to half a voxel of either grid.
        one = sitk.GetImageFromArray((mask_ZYX == label).view(np.uint8))
        one.CopyInformation(labels)
        coverage = sitk.Resample(
            one, reference, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True
        )
        inside = coverage >= 0.5
        _signed_distances(coverage, reach, out_ZYX=sdf_ZYXC[..., channel])
        labels_ZYX[sitk.GetArrayViewFromImage(inside) > 0] = label
        del one, coverage, inside  # before the next lung needs as much
    return DistanceMaps(
        sdf_ZYXC=sdf_ZYXC,
        labels_ZYX=labels_ZYX,
        spacing=spacing,
        origin_3=origin_3,
        direction_33=direction_33,
        scan_low_3=(-0.5 * voxel_3 - low_3) / spacing,
        scan_high_3=((size_3 - 0.5) * voxel_3 - low_3) / spacing,
    )


def _signed_distances(coverage: sitk.Image, reach: float, *, out_ZYX: NDArray[np.float32]) -> None:
    """Write the signed distances (mm, negative inside) from where a lung covers half of a voxel."""
    covered_ZYX = sitk.GetArrayViewFromImage(coverage) >= 0.5
    box = tuple(slice(0, n) for n in covered_ZYX.shape)
    if math.isfinite(reach) and covered_ZYX.any():
        out_ZYX.fill(2 * reach)
        # Interpolation between two voxels of which one is nearer than `reach` takes the next one as well.
        voxels = math.ceil(reach / coverage.GetSpacing()[0]) + 2
        box = bounding_box(covered_ZYX, [voxels] * 3)
    part = coverage[tuple(slice(s.start, s.stop) for s in reversed(box))]
    # Maurer distances are to the centres of boundary voxels: the mean of those to the inner and to the outer
    # boundary is zero on the surface, in any direction.
    to_inner = sitk.SignedMaurerDistanceMap(part >= 0.5, False, False, True)
    to_outer = sitk.SignedMaurerDistanceMap(part < 0.5, True, False, True)
    near_ZYX = out_ZYX[box]
    np.add(sitk.GetArrayViewFromImage(to_inner), sitk.GetArrayViewFromImage(to_outer), out=near_ZYX)
    near_ZYX *= 0.5


def interpolate(field_ZYXC: NDArray[np.float32], index_N3: Array) -> tuple[Array, Array]:
    """Trilinear value [N,C] and gradient by index [N,3,C] (x,y,z); indices are clamped to the field.

    In memory, points follow each other: sums over channels and axes of so few values take longer than all else.
    """
    nz, ny, nx, channels = field_ZYXC.shape
    clamped_N3 = np.clip(index_N3, 0, np.array([nx, ny, nz]) - 1.000001)
    low_N3 = clamped_N3.astype(np.int64)
    fx, fy, fz = (clamped_N3 - low_N3).astype(np.float32).T
    flat = field_ZYXC.reshape(-1, channels)
    base = (low_N3[:, 2] * ny + low_N3[:, 1]) * nx + low_N3[:, 0]
    corner = {
        (dx, dy, dz): np.ascontiguousarray(flat.take(base + dx + nx * (dy + ny * dz), axis=0).T)
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
    return (face[0] + gradient_z * fz).T, np.stack([gradient_x, gradient_y, gradient_z]).transpose(2, 0, 1)


def _bounds(labels: sitk.Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last index of the mask, x,y,z, from a strided view (to about 2 mm).

    Raises:
        ScanError: no-lung.
    """
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


@dataclass(frozen=True)
class LungMoments:
    """Centroid and covariance of a pair of lungs, LPS mm."""

    mean_3: NDArray[np.float64]
    covariance_33: NDArray[np.float64]
    right_to_left_3: NDArray[np.float64]
    """From the right lung's centroid to the left one's."""


def lung_moments(maps: DistanceMaps) -> LungMoments:
    """Moments of the lungs inside the scan.

    Raises:
        ScanError: one-lung.
    """
    right_N3, left_N3 = maps.points(RIGHT), maps.points(LEFT)
    if len(right_N3) < 20 or len(left_N3) < 20:
        missing = "right" if len(right_N3) < 20 else "left"
        raise ScanError(
            f"the {missing} lung was not found",
            "Use a scan of the whole chest, or check the scan's lung mask",
            code="one-lung",
        )
    points_N3 = np.concatenate([right_N3, left_N3])
    return LungMoments(
        points_N3.mean(axis=0), np.cov(points_N3.T), left_N3.mean(axis=0) - right_N3.mean(axis=0)
    )
