"""What a volume of any format must be: three dimensions, enough slices, one value a voxel, complete."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.limits import check_voxels

MIN_SLICES = 10
"""Fewer along any axis are no volume that can be registered."""


def check_shape(shape: tuple[int, ...], *, least: int = 2) -> tuple[int, int, int]:
    """The first three sizes, each at least `least`; all further ones must be 1.

    Raises:
        ScanError: not-3d, four-d, too-large.
    """
    if any(n > 1 for n in shape[3:]):
        raise ScanError(
            f"the image has {len(shape)} dimensions ({' x '.join(map(str, shape))})",
            "Give one 3-D volume; split a time series or a multi-channel image first",
            code="four-d",
        )
    if len(shape) < 3 or min(shape[:3]) < least:
        raise ScanError(
            f"the image is not a volume ({' x '.join(map(str, shape))} voxels)",
            "Give a 3-D chest CT",
            code="not-3d",
        )
    check_voxels(shape[:3])
    return shape[0], shape[1], shape[2]


def decompose(affine_44: NDArray[np.float64]) -> tuple[tuple[float, float, float], tuple[float, ...]]:
    """Spacing in mm and direction cosines (row by row) of a voxel-to-mm matrix; small shear is rounded away.

    Raises:
        ScanError: bad-affine, where axes are missing or not perpendicular within about half a degree.
    """
    matrix = affine_44[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(affine_44).all() or spacing.min() <= 0:
        raise ScanError("the voxel-to-mm matrix is singular", "Export the scan again", code="bad-affine")
    u, _, vt = np.linalg.svd(matrix / spacing)
    direction = u @ vt
    if np.abs(direction - matrix / spacing).max() > 0.01:
        raise ScanError(
            "the voxel axes are not perpendicular (sheared: a tilted gantry, perhaps)",
            "Resample the scan to a rectangular grid",
            code="bad-affine",
        )
    return (float(spacing[0]), float(spacing[1]), float(spacing[2])), tuple(direction.ravel().tolist())


def truncated() -> ScanError:
    """The error of a file that ends too early."""
    return ScanError("the file ends before its voxel data does", "Copy or export it again", code="truncated")


def incomplete(data_file: str) -> ScanError:
    """The error of too few voxels; of a separate data file where the header names one."""
    if not data_file:
        return truncated()
    return ScanError(
        "the separate data file that the header names is missing or too short",
        "Copy the header and its data into one folder, under the names in the header",
        code="truncated",
    )


def not_scalar() -> ScanError:
    """The error of colour, complex and vector images."""
    return ScanError(
        "the voxels hold several values each (colour, complex or vector)", "Give a CT", code="not-scalar"
    )


def truncated_slice(position: Sequence[float]) -> ScanError:
    """The error of a slice with fewer pixels than its header says."""
    at = f"the slice at {position[2]:.1f} mm" if position else "a slice"
    return ScanError(f"{at} is cut short", "Copy or export the series again", code="truncated")
