"""Patches of a scan at the atlas locations.

Each location's centre goes through the affine into the scan; the patch around it has LPS axes and the atlas'
patch spacing. All patches of a scan share one lattice (centres move by at most half a step), so the box
around the lungs is interpolated once and the patches are cut from it. Interpolation is cubic convolution:
linear interpolation smooths the noise of the lung away and with it most voxels below -950 HU, the measure of
emphysema.

Source of the kernel: Keys, Cubic convolution interpolation for digital image processing, 1981,
doi:10.1109/TASSP.1981.1163711.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.affine import transform_points
from ctplatform.errors import ScanError
from drasclr.atlas import Atlas

PADDING_HU = -1024
AXIS_TOLERANCE_MM = 0.1
"""A direction matrix counts as axis-aligned when ignoring the rest moves no voxel of the scan by more."""

Interpolation = Literal["cubic", "linear"]


@dataclass(frozen=True)
class Patches:
    """All patches of one scan, in the order of the atlas locations.

    Attributes:
        hu_NDHW: int16 HU, clipped to the window; axes z,y,x = superior, posterior, left.
        inside_N: float32, fraction of the patch that lies in the scan; the rest is -1024.
        centres_mm_N3: LPS mm in the scan, where the patch really is (on the common lattice).
    """

    hu_NDHW: NDArray[np.int16]
    inside_N: NDArray[np.float32]
    centres_mm_N3: NDArray[np.float64]


def sample_patches(
    image: sitk.Image,
    affine_44: NDArray[np.floating],
    atlas: Atlas,
    *,
    geometry: Literal["centre", "published"] = "centre",
    interpolation: Interpolation = "cubic",
    spacing_mm: float = 1.0,
    hu_window: tuple[int, int] = (-1024, 240),
) -> Patches:
    """Cut one patch a location.

    Args:
        image: int16 HU, axes in LPS order (oblique directions allowed).
        affine_44: atlas LPS mm -> scan LPS mm.
        geometry: "centre" maps patch centres and lays the patch along LPS axes. "published" maps patch
            corners and extends the patch along the scan's own axes, as the published code does: wherever the
            atlas' axes point another way, patches land about a patch width off. For comparison only.

    Raises:
        ScanError: no patch touches the scan.
    """
    direction_33 = np.array(image.GetDirection()).reshape(3, 3)
    extent_mm = float(np.max(np.array(image.GetSize()) * image.GetSpacing()))
    oblique = np.abs(direction_33 - np.eye(3)).max() * extent_mm > AXIS_TOLERANCE_MM
    size = atlas.patch_size
    # Everything happens in mm along the patch axes, from the scan's first voxel.
    axes_33 = direction_33 if geometry == "published" or not oblique else np.eye(3)
    origin_3 = np.array(image.GetOrigin())
    half_mm = (size - 1) / 2 * spacing_mm
    if geometry == "published":
        first_N3 = (transform_points(affine_44, _corners_mm(atlas)) - origin_3) @ axes_33
    else:
        first_N3 = (transform_points(affine_44, atlas.centres_mm_N3) - origin_3) @ axes_33 - half_mm
    lattice_N3 = np.rint(first_N3 / spacing_mm).astype(np.int64)
    low_3 = lattice_N3.min(axis=0)
    start_N3 = lattice_N3 - low_3
    box_3 = start_N3.max(axis=0) + size
    low_mm_3 = low_3 * spacing_mm
    if oblique and geometry == "centre":
        box_ZYX, inside_N = _oblique_box(
            image, low_mm_3, box_3, start_N3, size, spacing_mm, interpolation, hu_window
        )
    else:
        voxel_3, count_3 = np.array(image.GetSpacing()), image.GetSize()
        at_mm = [low_mm_3[axis] + np.arange(box_3[axis]) * spacing_mm for axis in range(3)]
        taps = [Taps.at(at / voxel_3[axis], count_3[axis], interpolation) for axis, at in enumerate(at_mm)]
        box_ZYX = separable(sitk.GetArrayViewFromImage(image), taps, hu_window)
        inside_N = np.ones(len(start_N3))
        for axis in range(3):
            running = np.concatenate([[0], np.cumsum(~taps[axis].outside_N)])
            inside_N *= (running[start_N3[:, axis] + size] - running[start_N3[:, axis]]) / size
    if not inside_N.any():
        raise ScanError(
            "no atlas location lies inside the scan",
            "Look at the scan's lung mask and registration",
            code="outside",
        )
    hu_NDHW = np.empty((len(start_N3), size, size, size), np.int16)
    for patch, (x, y, z) in zip(hu_NDHW, start_N3):
        patch[...] = box_ZYX[z : z + size, y : y + size, x : x + size]
    centres_mm_N3 = (lattice_N3 * spacing_mm + half_mm) @ axes_33.T + origin_3
    return Patches(hu_NDHW, inside_N.astype(np.float32), centres_mm_N3)


@dataclass(frozen=True)
class Taps:
    """One axis of a separable interpolation: for every output position, the input indices and their
    weights."""

    index_KN: NDArray[np.int64]
    weight_KN: NDArray[np.float32]
    outside_N: NDArray[np.bool_]

    @classmethod
    def at(cls, positions_N: NDArray[np.floating], count: int, kind: Interpolation) -> Taps:
        """Taps for continuous indices into an axis of `count` voxels; edges are replicated."""
        low_N = np.floor(positions_N).astype(np.int64)
        f = positions_N - low_N
        if kind == "linear":
            offsets, weights = [0, 1], [1 - f, f]
        else:
            offsets = [-1, 0, 1, 2]
            weights = [
                ((-0.5 * f + 1) * f - 0.5) * f,
                (1.5 * f - 2.5) * f * f + 1,
                ((-1.5 * f + 2) * f + 0.5) * f,
                (0.5 * f - 0.5) * f * f,
            ]
        index_KN = np.stack([np.clip(low_N + offset, 0, count - 1) for offset in offsets])
        outside_N = (positions_N < -0.5) | (positions_N > count - 0.5)
        return cls(index_KN, np.stack(weights).astype(np.float32), outside_N)


def separable(
    volume_ZYX: NDArray[np.int16], taps: list[Taps], hu_window: tuple[int, int]
) -> NDArray[np.int16]:
    """Interpolate a volume on a box: taps for x, y, z; outside the volume the box is -1024.

    Slice by slice, with the few in-plane results that neighbouring output slices share kept at hand: memory
    beyond the two volumes is a handful of slices.
    """
    along_x, along_y, along_z = taps
    box_ZYX = np.full([len(t.outside_N) for t in (along_z, along_y, along_x)], PADDING_HU, np.int16)
    y_low, y_high = along_y.index_KN.min(), along_y.index_KN.max() + 1
    planes: dict[int, NDArray[np.float32]] = {}
    for k in np.flatnonzero(~along_z.outside_N):
        needed = {int(z) for z, weight in zip(along_z.index_KN[:, k], along_z.weight_KN[:, k]) if weight}
        planes = {z: plane for z, plane in planes.items() if z in needed}
        for z in needed - planes.keys():
            # Values below air are padding of the reconstruction circle; they must not ring into the body.
            slice_YX = np.maximum(volume_ZYX[z, y_low:y_high], PADDING_HU).astype(np.float32)
            rows = _weighted(slice_YX, along_y.index_KN - y_low, along_y.weight_KN)
            planes[z] = _weighted(np.ascontiguousarray(rows.T), along_x.index_KN, along_x.weight_KN)
        value_XY = np.zeros((len(along_x.outside_N), len(along_y.outside_N)), np.float32)
        for z, weight in zip(along_z.index_KN[:, k], along_z.weight_KN[:, k]):
            if weight:
                value_XY += weight * planes[int(z)]
        np.rint(value_XY, out=value_XY)
        np.clip(value_XY, *hu_window, out=value_XY)
        box_ZYX[k] = value_XY.T
    box_ZYX[:, along_y.outside_N] = PADDING_HU
    box_ZYX[:, :, along_x.outside_N] = PADDING_HU
    return box_ZYX


def _weighted(
    rows: NDArray[np.float32], index_KN: NDArray[np.int64], weight_KN: NDArray[np.float32]
) -> NDArray[np.float32]:
    total = weight_KN[0][:, None] * rows[index_KN[0]]
    for index_N, weight_N in zip(index_KN[1:], weight_KN[1:]):
        total += weight_N[:, None] * rows[index_N]
    return total


def _oblique_box(
    image: sitk.Image,
    low_mm_3: NDArray[np.floating],
    box_3: NDArray[np.int64],
    start_N3: NDArray[np.int64],
    size: int,
    spacing_mm: float,
    interpolation: Interpolation,
    hu_window: tuple[int, int],
) -> tuple[NDArray[np.int16], NDArray[np.floating]]:
    """The same box for a scan whose axes are turned against LPS, by SimpleITK; also the inside fractions.

    Cubic here is the cubic B-spline: the scan's part around the box is prefiltered, which is what makes this
    path slower.
    """
    origin_mm_3 = np.array(image.GetOrigin()) + low_mm_3
    part = _part(image, origin_mm_3, box_3 * spacing_mm)
    clamped = sitk.Clamp(part, sitk.sitkFloat32, PADDING_HU, 32767.0)
    kind = sitk.sitkBSpline if interpolation == "cubic" else sitk.sitkLinear
    identity = np.eye(3).ravel().tolist()
    box = sitk.Resample(
        clamped,
        box_3.tolist(),
        sitk.Transform(),
        kind,
        origin_mm_3.tolist(),
        [spacing_mm] * 3,
        identity,
        float(PADDING_HU),
        sitk.sitkFloat32,
    )
    box_ZYX = sitk.GetArrayFromImage(box)
    np.rint(box_ZYX, out=box_ZYX)
    np.clip(box_ZYX, *hu_window, out=box_ZYX)
    inside_ZYX = _inside(image, origin_mm_3, box_3, spacing_mm)
    box_ZYX[~inside_ZYX] = PADDING_HU
    inside_N = np.array(
        [inside_ZYX[z : z + size, y : y + size, x : x + size].mean() for x, y, z in start_N3],
        dtype=np.float64,
    )
    return box_ZYX.astype(np.int16), inside_N


def _part(
    image: sitk.Image, origin_mm_3: NDArray[np.floating], extent_mm_3: NDArray[np.floating]
) -> sitk.Image:
    """The scan cropped to what the box needs, with room for the kernel."""
    corners = [origin_mm_3 + extent_mm_3 * ends for ends in itertools.product((0, 1), repeat=3)]
    index_83 = np.array(
        [image.TransformPhysicalPointToContinuousIndex(corner.tolist()) for corner in corners]
    )
    limit_3 = np.array(image.GetSize())
    low_3 = np.clip(np.floor(index_83.min(axis=0)) - 8, 0, limit_3 - 1).astype(int)
    high_3 = np.clip(np.ceil(index_83.max(axis=0)) + 9, low_3 + 1, limit_3).astype(int)
    return sitk.RegionOfInterest(image, (high_3 - low_3).tolist(), low_3.tolist())


def _inside(
    image: sitk.Image, origin_mm_3: NDArray[np.floating], box_3: NDArray[np.int64], spacing_mm: float
) -> NDArray[np.bool_]:
    """Which lattice points lie in the scan [z,y,x]: three linear conditions, each a sum over the axes."""
    direction_33 = np.array(image.GetDirection()).reshape(3, 3)
    to_index_33 = direction_33.T / np.array(image.GetSpacing())[:, None]
    first_3 = to_index_33 @ (origin_mm_3 - np.array(image.GetOrigin()))
    steps = [np.arange(n) * spacing_mm for n in box_3]
    inside_ZYX = np.ones(box_3[::-1].tolist(), bool)
    for axis, count in enumerate(image.GetSize()):
        x, y, z = (to_index_33[axis, j] * steps[j] for j in range(3))
        index_ZYX = (first_3[axis] + z)[:, None, None] + y[:, None] + x
        inside_ZYX &= (index_ZYX >= -0.5) & (index_ZYX <= count - 0.5)
    return inside_ZYX


def _corners_mm(atlas: Atlas) -> NDArray[np.float64]:
    """Centres of the patches' first voxels, atlas LPS mm."""
    index_N3 = np.asarray(atlas.corners_N3, np.float64) * np.array(atlas.spacing)
    return index_N3 @ np.array(atlas.direction).reshape(3, 3).T + np.array(atlas.origin)
