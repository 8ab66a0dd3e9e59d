"""The few-millimetre grid on which lungs are found, with the morphology that works on it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

PADDING_HU = -1024

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """The coarse scan: HU, and voxel size in mm along x, y, z."""

    hu_ZYX: NDArray[np.int16]
    spacing: tuple[float, float, float]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel."""
        return math.prod(self.spacing) / 1000

    def radius(self, mm: float, *, least: int = 1) -> list[int]:
        """A length as voxels along x, y, z."""
        return [max(least, round(mm / s)) for s in self.spacing]

    def image(self, mask: NDArray) -> sitk.Image:
        """A mask as an image with this grid's spacing."""
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
        """Erosion by a ball; the border of the grid does not erode."""
        return ~self.dilate(~mask, mm)

    def components(self, mask: Mask) -> tuple[NDArray, NDArray]:
        """Face-connected components [z,y,x] from 1, and their sizes in voxels (entry 0 is set to 0)."""
        labels_ZYX = sitk.GetArrayFromImage(sitk.ConnectedComponent(self.image(mask), False))
        sizes = np.bincount(labels_ZYX.ravel())
        sizes[0] = 0
        return labels_ZYX, sizes


def _ball(radii: list[int]) -> list[tuple[int, ...]]:
    """Offsets of an ellipsoid's voxels without the centre."""
    ranges = [range(-r, r + 1) for r in radii]
    return [
        offset
        for offset in itertools.product(*ranges)
        if any(offset) and sum((d / r) ** 2 for d, r in zip(offset, radii) if d) <= 1
    ]


def shrink(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Mean over whole blocks of voxels, as near to `spacing_mm` as that allows; padding counts as air."""
    factors = [max(1, round(spacing_mm / s)) for s in image.GetSpacing()]
    clamped = sitk.Clamp(image, sitk.sitkInt16, PADDING_HU, 3071)
    return sitk.BinShrink(clamped, factors) if max(factors) > 1 else clamped


def bounding_box(mask: Mask, margin: list[int]) -> tuple[slice, ...]:
    """Bounding box of a mask with a margin in voxels, z, y, x."""
    ends = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(max(0, end[0] - m), end[-1] + m + 1) for end, m in zip(ends, margin))
