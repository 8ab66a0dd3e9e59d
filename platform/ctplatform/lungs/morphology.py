"""Binary morphology with ellipsoids, a few voxels wide, as unions of a mask shifted in memory.

An ellipsoid is a set of runs along x. The mask is dilated along x once a width of a run, and each run is one union of
whole volumes: several times faster than a filter that visits neighbours voxel by voxel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ellipsoid:
    """A structuring element.

    Attributes:
        radii_ZYX: voxels from its centre to its ends.
        runs: (z, y, half of the length along x) of each of its runs.
    """

    radii_ZYX: tuple[int, int, int]
    runs: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, radii_ZYX: Sequence[int], *, beyond: float = 0.0) -> Ellipsoid:
        """The voxels with (z/rz)^2 + (y/ry)^2 + (x/rx)^2 <= 1, each r being a radius and what it extends `beyond`."""
        z, y, x = radii_ZYX

        def inside(*offset: int) -> bool:
            return sum((d / (r + beyond)) ** 2 for d, r in zip(offset, radii_ZYX) if d) <= 1

        runs = tuple(
            (dz, dy, sum(inside(dz, dy, dx) for dx in range(1, x + 1)))
            for dz, dy in itertools.product(range(-z, z + 1), range(-y, y + 1))
            if inside(dz, dy, 0)
        )
        return cls((z, y, x), runs)


def dilate(mask_ZYX: Mask, element: Ellipsoid) -> Mask:
    """Dilation; nothing lies beyond the border."""
    margins = [(r, r) for r in element.radii_ZYX]
    padded_ZYX = np.pad(mask_ZYX, margins)
    # The margins are as wide as any shift, so that shifts of the flat memory move no voxel into another row.
    flat = padded_ZYX.ravel()
    strides = [stride // flat.itemsize for stride in padded_ZYX.strides]
    wide = [flat]
    for dx in range(1, element.radii_ZYX[2] + 1):
        wider = wide[-1].copy()
        wider[dx:] |= flat[:-dx]
        wider[:-dx] |= flat[dx:]
        wide.append(wider)
    out = np.zeros_like(flat)
    for dz, dy, half in element.runs:
        shift = dz * strides[0] + dy * strides[1]
        to, source = out[max(0, shift) :], wide[half][max(0, -shift) :]
        length = min(len(to), len(source))
        to[:length] |= source[:length]
    inner = tuple(slice(low, low + n) for (low, _), n in zip(margins, mask_ZYX.shape))
    return np.ascontiguousarray(out.reshape(padded_ZYX.shape)[inner])


def erode(mask_ZYX: Mask, element: Ellipsoid) -> Mask:
    """Erosion; the border does not erode."""
    return ~dilate(~mask_ZYX, element)


def fill_holes(mask_ZYX: Mask) -> Mask:
    """The mask with all that it encloses: face-connected parts around it that reach no side of the grid."""
    around = sitk.GetImageFromArray((~mask_ZYX).astype(np.uint8))
    parts = sitk.ConnectedComponent(around, False)
    labels_ZYX = sitk.GetArrayViewFromImage(parts)
    is_open = np.zeros(int(labels_ZYX.max()) + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            is_open[labels_ZYX.take(end, axis=axis)] = True
    is_open[0] = False  # the mask
    filled_ZYX: Mask = ~is_open[labels_ZYX]
    return filled_ZYX


def lowest_slices(mask_ZYX: Mask) -> NDArray[np.intp]:
    """The first slice [y, x] in which a pixel is in the mask; the number of slices where it is in none."""
    out_YX = np.full(mask_ZYX.shape[1:], len(mask_ZYX))
    for z in reversed(range(len(mask_ZYX))):
        out_YX[mask_ZYX[z]] = z
    return out_YX
