"""Patches of a scan at the atlas locations.

Each location's centre goes through the affine into the scan. All patches of a scan share one lattice (centres move by
at most half a step), so the box around the lungs is interpolated once and the patches are cut from it. Interpolation is
the cubic B-spline of the volume: linear interpolation smooths the noise of the lung, and with it removes most voxels
below -950 HU, the measure of emphysema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.preparation.interpolation import (
    Axis,
    Interpolation,
    interpolate_parts,
    resample_box,
)
from ctplatform.registration.affine import affine_from, transform_points
from drasclr.atlas import Atlas

AXIS_TOLERANCE_MM = 0.1
"""Patch axes count as the scan's own if ignoring the angle between them moves no voxel by more."""


@dataclass(frozen=True)
class Patches:
    """All patches of one scan, in the order of the atlas locations.

    Attributes:
        hu_NDHW: int16 HU, clipped to the window; axes z,y,x = superior, posterior, left.
        inside_N: float32, fraction of the patch that lies in the scan; the rest is -1024.
        centres_mm_N3: LPS mm in the scan, on the common lattice.
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
    axes: Literal["lps", "atlas"] = "lps",
    interpolation: Interpolation = "bspline",
    spacing_mm: float = 1.0,
    hu_window: tuple[int, int] = (-1024, 240),
) -> Patches:
    """Sample one patch a location.

    Args:
        image: int16 HU, axes in LPS order (oblique directions allowed).
        affine_44: atlas LPS mm -> scan LPS mm.
        geometry: "centre" maps patch centres. "published" maps patch corners and extends the patch along the
            scan's own axes, as the published code does: wherever the atlas' axes point another way, patches land
            about a patch width off. For comparison only.
        axes: "lps" lays patches along the scan's LPS axes, `spacing_mm` of the scan a voxel, so that disease keeps its
            size. "atlas" maps whole patches: axes turn, scale and shear with the affine, `spacing_mm` of the atlas a
            voxel, so that a patch covers the same share of every lung. Ignored by "published".

    Raises:
        ScanError: no patch touches the scan.
    """
    size = atlas.patch_size
    half_mm = (size - 1) / 2 * spacing_mm
    frame_44 = _frame(image, affine_44, atlas, geometry, axes, half_mm)
    if geometry == "published":
        first_N3 = transform_points(np.linalg.inv(frame_44) @ affine_44, _corners_mm(atlas))
    else:
        first_N3 = transform_points(np.linalg.inv(frame_44) @ affine_44, atlas.centres_mm_N3) - half_mm
    lattice_N3 = np.rint(first_N3 / spacing_mm).astype(np.int64)
    low_3 = lattice_N3.min(axis=0)
    start_N3 = lattice_N3 - low_3
    size_3 = start_N3.max(axis=0) + size
    to_index_44 = index_from_mm(image) @ frame_44 @ affine_from(spacing_mm * np.eye(3), low_3 * spacing_mm)
    parts, share = _lattice_parts(
        image, to_index_44, size_3, interpolation, hu_window, cubes=(start_N3, size)
    )
    inside_N = share(start_N3, size)
    if not inside_N.any():
        raise ScanError(
            "no atlas location lies inside the scan",
            "Look at the scan's lung mask and registration",
            code="outside",
        )
    hu_NDHW = np.empty((len(start_N3), size, size, size), np.int16)
    for where, part_ZYX in parts:
        for patch, (x, y, z) in zip(hu_NDHW, start_N3):
            low, high = max(z, where.start), min(z + size, where.stop)
            if low < high:
                rows = slice(low - where.start, high - where.start)
                patch[low - z : high - z] = part_ZYX[rows, y : y + size, x : x + size]
    centres_mm_N3 = transform_points(frame_44, lattice_N3 * spacing_mm + half_mm)
    return Patches(hu_NDHW, inside_N.astype(np.float32), centres_mm_N3)


def lattice_box(
    image: sitk.Image,
    to_index_44: NDArray[np.float64],
    size_3: NDArray[np.integer],
    interpolation: Interpolation,
    hu_window: tuple[int, int],
) -> NDArray[np.int16]:
    """Interpolate the scan on a box of the lattice, axis by axis where the axes agree.

    Args:
        to_index_44: index of the box (x,y,z) -> continuous index of the scan.
        size_3: voxels of the box, x,y,z.

    Returns:
        int16 HU [z,y,x].
    """
    box_ZYX = np.empty(tuple(int(n) for n in reversed(size_3)), np.int16)
    for where, part_ZYX in _lattice_parts(image, to_index_44, size_3, interpolation, hu_window)[0]:
        box_ZYX[where] = part_ZYX
    return box_ZYX


def _lattice_parts(
    image: sitk.Image,
    to_index_44: NDArray[np.float64],
    size_3: NDArray[np.integer],
    interpolation: Interpolation,
    hu_window: tuple[int, int],
    *,
    cubes: tuple[NDArray[np.integer], int] | None = None,
) -> tuple[
    Iterable[tuple[slice, NDArray[np.int16]]],
    Callable[[NDArray[np.integer], int], NDArray[np.floating]],
]:
    """The box in parts along z, one at a time, so that the whole box never lies in memory beside the patches.

    `cubes` are (lowest voxels [N,3] x,y,z, side in voxels) of what is read of the box; None is all of it.

    Returns:
        (positions along z, int16 HU [z,y,x]) a part, and a function (lowest voxels of cubes [N,3] x,y,z, side in
        voxels) -> share of each cube that lies in the scan [N].
    """
    linear_33 = to_index_44[:3, :3]
    off_axis_33 = linear_33 - np.diag(np.diag(linear_33))
    turned_33 = off_axis_33 * np.array(image.GetSpacing())[:, None]
    if (np.abs(turned_33) @ size_3).max() > AXIS_TOLERANCE_MM:
        box_ZYX, inside_ZYX = resample_box(image, to_index_44, size_3, interpolation, hu_window, cubes=cubes)

        def share_of_voxels(start_N3: NDArray[np.integer], side: int) -> NDArray[np.floating]:
            patches = (inside_ZYX[z : z + side, y : y + side, x : x + side] for x, y, z in start_N3)
            return np.array([inside.mean() for inside in patches])

        return [(slice(0, len(box_ZYX)), box_ZYX)], share_of_voxels
    # The axes turn by less than a tenth of a millimetre, which is split evenly about the middle of the box.
    shift_3 = off_axis_33 @ (size_3 / 2)
    along = tuple(
        Axis.at(to_index_44[i, 3] + shift_3[i] + linear_33[i, i] * np.arange(size_3[i]), count, interpolation)
        for i, count in enumerate(image.GetSize())
    )
    parts = interpolate_parts(sitk.GetArrayViewFromImage(image), along, hu_window)  # type: ignore[arg-type]

    def share_of_axes(start_N3: NDArray[np.integer], side: int) -> NDArray[np.floating]:
        shares = [axis.inside_share(start_N3[:, i], side) for i, axis in enumerate(along)]
        return np.asarray(np.prod(shares, axis=0))

    return parts, share_of_axes


def _frame(
    image: sitk.Image,
    affine_44: NDArray[np.floating],
    atlas: Atlas,
    geometry: str,
    axes: str,
    half_mm: float,
) -> NDArray[np.float64]:
    """Frame of the lattice: mm along the patch axes -> scan LPS mm. Its origin lies on the lattice."""
    origin_3 = np.array(image.GetOrigin())
    if geometry == "published":
        return affine_from(np.array(image.GetDirection()).reshape(3, 3), origin_3)
    if axes == "lps":
        return affine_from(np.eye(3), origin_3)
    return np.asarray(affine_44, np.float64) @ affine_from(np.eye(3), atlas.centres_mm_N3[0] - half_mm)


def index_from_mm(image: sitk.Image) -> NDArray[np.float64]:
    """LPS mm -> continuous index x,y,z."""
    direction_33 = np.array(image.GetDirection()).reshape(3, 3)
    linear_33 = np.linalg.inv(direction_33) / np.array(image.GetSpacing())[:, None]
    return affine_from(linear_33, -linear_33 @ np.array(image.GetOrigin()))


def _corners_mm(atlas: Atlas) -> NDArray[np.float64]:
    """Centres of the patches' first voxels, atlas LPS mm."""
    index_N3 = np.asarray(atlas.corners_N3, np.float64) * np.array(atlas.spacing)
    return np.asarray(index_N3 @ np.array(atlas.direction).reshape(3, 3).T + np.array(atlas.origin))
