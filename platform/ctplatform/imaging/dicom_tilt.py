"""Slices of a tilted gantry, which are sheared against each other, resampled to an upright grid.

The table moves along the body while the slices are inclined, so row and column directions and the step from slice to
slice are not perpendicular. One axis of the stored grid is moved along another until they are, by cubic B-splines along
that axis alone. The slices' own planes stay, or the direction of the steps, whichever is nearer an axis of the patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.hounsfield import PADDING_HU

MAX_DEGREES = 45.0
"""Gantries tilt by up to 30 degrees; more is another mistake."""

ALONG_DEGREES = 0.5
"""Up to this much the steps may lean towards the axis that stays."""


@dataclass(frozen=True)
class Shear:
    """The stored grid of a tilted series: each axis's unit vector and spacing in mm, LPS, along x, y, z."""

    degrees: float
    axes: NDArray[np.float64]
    spacing: tuple[float, float, float]
    origin: NDArray[np.float64]

    @property
    def along_slices(self) -> bool:
        """Whether the direction of the steps is upright, and not the normal of the slices."""
        normal = np.cross(self.axes[0], self.axes[1])
        return bool(np.abs(self.axes[2]).max() > np.abs(normal).max())

    def leaning(self) -> int:
        """The image axis, 0 or 1, that leans along the steps where these are upright.

        Raises:
            ScanError: gantry-tilt, both do, or the tilt is too large.
        """
        along = np.abs(self.axes[:2] @ self.axes[2])
        leaning = int(along[1] >= along[0])
        tolerated = math.sin(math.radians(ALONG_DEGREES))
        if self.degrees > MAX_DEGREES or (self.along_slices and along[1 - leaning] > tolerated):
            raise ScanError(
                f"the slices are sheared by {self.degrees:.1f} degrees, and not as a tilted gantry does",
                "Correct the tilt (e.g. with dcm2niix) and give the corrected NIfTI file",
                code="gantry-tilt",
            )
        return leaning


@dataclass(frozen=True)
class Upright:
    """Voxels on a rectangular grid: HU [z, y, x]; spacing and origin in mm, direction row by row, LPS."""

    hu_ZYX: NDArray[Any]
    spacing: tuple[float, float, float]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


def upright(hu_ZYX: NDArray[Any], shear: Shear) -> Upright:
    """Resample a sheared volume; outside of the stored slices it holds `PADDING_HU`.

    Raises:
        ScanError: of `Shear.leaning`.
    """
    leaning = shear.leaning()
    axes, spacing, origin = shear.axes.copy(), list(shear.spacing), shear.origin.copy()
    if shear.along_slices:
        lean = float(axes[leaning] @ axes[2])
        rate = lean * spacing[leaning] / spacing[2]
        hu_ZYX, first = _sheared(hu_ZYX, along=2, per=leaning, rate=rate)
        origin += first * spacing[2] * axes[2]
        spacing[leaning] *= math.sqrt(1 - lean**2)
        kept = axes[1 - leaning] - (axes[1 - leaning] @ axes[2]) * axes[2]
        kept /= np.linalg.norm(kept)
        axes[1 - leaning] = kept
        axes[leaning] = np.cross(kept, axes[2]) if leaning == 0 else np.cross(axes[2], kept)
    else:
        normal = np.cross(axes[0], axes[1])
        steps = spacing[2] * axes[2]
        for axis in (0, 1):
            rate = float(steps @ axes[axis]) / spacing[axis]
            if abs(rate) > 1e-6:
                hu_ZYX, first = _sheared(hu_ZYX, along=axis, per=2, rate=rate)
                origin += first * spacing[axis] * axes[axis]
        spacing[2] = float(steps @ normal)
        axes[2] = normal
    return Upright(
        hu_ZYX, (spacing[0], spacing[1], spacing[2]), tuple(origin.tolist()), tuple(axes.T.ravel().tolist())
    )


def _sheared(hu_ZYX: NDArray[Any], *, along: int, per: int, rate: float) -> tuple[NDArray[Any], int]:
    """Move each plane along one axis by its index times `rate`, in voxels; axes are 0 for x, 1 for y, 2 for z.

    Returns:
        The volume, longer along that axis, and the index of its first plane on the grid of the old ones.
    """
    from scipy import ndimage

    array = np.moveaxis(hu_ZYX, (2 - per, 2 - along), (0, 1))  # [planes, along, the third axis]
    planes, length, _ = array.shape
    ends = (0.0, rate * (planes - 1))
    first, last = math.floor(min(ends)), math.ceil(max(ends))
    out = np.full((planes, length + last - first, array.shape[2]), PADDING_HU, np.float32)
    for k, plane in enumerate(array):
        offset = rate * k - first
        whole = math.floor(offset)
        left = offset - whole
        stored = np.maximum(plane, PADDING_HU).astype(np.float32)
        if left < 1e-4:
            out[k, whole : whole + length] = stored
            continue
        coefficients = ndimage.spline_filter1d(stored, order=3, axis=0, mode="mirror", output=np.float32)
        padded = np.pad(coefficients, ((1, 1), (0, 0)), mode="reflect")
        t = 1 - left  # output voxel `whole + 1 + j` lies between the stored ones j and j + 1, t after j
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        between = sum(w * padded[m : m + length - 1] for m, w in enumerate(weights))
        out[k, whole + 1 : whole + length] = between
        for end, nearest in (
            (whole, 0),
            (whole + length, length - 1),
        ):  # half a voxel beyond the first and last
            if abs(end - offset - nearest) <= 0.5:
                out[k, end] = stored[nearest]
    if hu_ZYX.dtype.kind != "f":
        limits = np.iinfo(hu_ZYX.dtype)
        out = np.clip(np.rint(out), limits.min, limits.max).astype(hu_ZYX.dtype)
    return np.ascontiguousarray(np.moveaxis(out, (0, 1), (2 - per, 2 - along))), first
