"""The grid of a few millimetres on which lungs are segmented, and the binary morphology on it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.imaging.hounsfield import PADDING_HU

TISSUE_HU = -200
"""Soft tissue is brighter, in means over a coarse voxel."""

MAX_HU = 3071
"""Highest value of 12-bit CT; metal above it would brighten the mean of its coarse voxel."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CoarseGrid:
    """A scan in coarse voxels: HU [z, y, x], and voxel size in mm along x, y, z."""

    hu_ZYX: NDArray[np.int16]
    spacing: tuple[float, float, float]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return math.prod(self.spacing) / 1000

    def radius(self, mm: float, *, least: int = 1) -> list[int]:
        """A length in mm as voxels along x, y, z, at least `least`."""
        return [max(least, round(mm / s)) for s in self.spacing]

    def image(self, mask: NDArray[Any]) -> sitk.Image:
        """A mask as an image with this grid's spacing, origin 0."""
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(self.spacing)
        return image

    def dilate(self, mask: Mask, mm: float, *, least: int = 1) -> Mask:
        """Dilation by a ball of `mm`, at least `least` voxels along each axis."""
        out = mask.copy()
        for shift in _ball(self.radius(mm, least=least)[::-1]):
            to = tuple(slice(max(0, d), n + min(0, d)) for d, n in zip(shift, mask.shape))
            source = tuple(slice(max(0, -d), n + min(0, -d)) for d, n in zip(shift, mask.shape))
            out[to] |= mask[source]
        return out

    def erode(self, mask: Mask, mm: float) -> Mask:
        """Erosion by a ball of `mm`; the border of the grid does not erode."""
        return ~self.dilate(~mask, mm)

    def smoothed(self, slices: slice) -> NDArray[np.int16]:
        """HU as means of 3 x 3 x 3 voxels in some slices, as they are in the others."""
        out = self.hu_ZYX.copy()
        mean = sitk.Mean(sitk.GetImageFromArray(self.hu_ZYX[slices]), (1, 1, 1))
        out[slices] = sitk.GetArrayViewFromImage(mean)
        return out

    def components(self, mask: Mask) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """Face-connected components [z, y, x], numbered from 1, and their sizes in voxels (entry 0 is 0)."""
        labels_ZYX = sitk.GetArrayFromImage(sitk.ConnectedComponent(self.image(mask), False))
        sizes = np.bincount(labels_ZYX.ravel())
        sizes[0] = 0
        return labels_ZYX, sizes


def _ball(radii: list[int]) -> list[tuple[int, ...]]:
    """Offsets of an ellipsoid's voxels, without the centre."""
    ranges = [range(-r, r + 1) for r in radii]
    return [
        offset
        for offset in itertools.product(*ranges)
        if any(offset) and sum((d / r) ** 2 for d, r in zip(offset, radii) if d) <= 1
    ]


def shrink(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Mean over whole blocks of voxels, with a spacing as near to `spacing_mm` as that allows.

    Values are limited to `PADDING_HU` to `MAX_HU` first, so that low padding does not darken its neighbours.
    """
    factors = [max(1, round(spacing_mm / s)) for s in image.GetSpacing()]
    clamped = sitk.Clamp(image, sitk.sitkInt16, PADDING_HU, MAX_HU)
    coarse: sitk.Image = sitk.BinShrink(clamped, factors) if max(factors) > 1 else clamped
    return coarse


def bounding_box(mask: Mask, margin: list[int]) -> tuple[slice, ...]:
    """Bounding box of a mask as slices z, y, x, with a margin in voxels along z, y, x."""
    ends = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(max(0, end[0] - m), end[-1] + m + 1) for end, m in zip(ends, margin))
