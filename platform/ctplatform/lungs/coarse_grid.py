"""The grid of a few millimetres on which lungs are segmented, and the binary morphology on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.lungs import morphology
from ctplatform.lungs.morphology import Ellipsoid, Mask

TISSUE_HU = -200
"""Soft tissue is brighter, in means over a coarse voxel."""

MAX_HU = 3071
"""Highest value of 12-bit CT; metal above it would brighten the mean of its coarse voxel."""

WALL_MM = 6.0
"""Of tissue in front of a voxel, and behind it, that encloses the voxel."""

_INT16_SUM = 8
"""Values of 12-bit CT, of which the sum is held by 16 bits."""


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
        return morphology.dilate(mask, self._ball(mm, least))

    def erode(self, mask: Mask, mm: float) -> Mask:
        """Erosion by a ball of `mm`; the border of the grid does not erode."""
        return morphology.erode(mask, self._ball(mm, 1))

    def _ball(self, mm: float, least: int) -> Ellipsoid:
        return Ellipsoid.of(self.radius(mm, least=least)[::-1])

    def smoothed(self, slices: slice) -> NDArray[np.int16]:
        """HU as means of 3 x 3 x 3 voxels in some slices, whole numbers towards 0; as they are in the others."""
        out = self.hu_ZYX.copy()
        padded_ZYX = np.pad(self.hu_ZYX[slices], 1, mode="edge")
        sums_ZYX = padded_ZYX[:, :, :-2] + padded_ZYX[:, :, 1:-1] + padded_ZYX[:, :, 2:]
        sums_ZYX = (sums_ZYX[:, :-2] + sums_ZYX[:, 1:-1]).astype(np.int32) + sums_ZYX[:, 2:]
        sums_ZYX = sums_ZYX[:-2] + sums_ZYX[1:-1] + sums_ZYX[2:]
        out[slices] = np.sign(sums_ZYX) * (np.abs(sums_ZYX) // 27)
        return out

    def components(self, mask: Mask) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """Face-connected components [z, y, x], numbered from 1, and their sizes in voxels (entry 0 is 0)."""
        labels_ZYX = np.zeros(mask.shape, np.uint32)
        if not mask.any():
            return labels_ZYX, np.zeros(1, np.intp)
        box = bounding_box(mask, [0, 0, 0])
        found_ZYX = sitk.GetArrayFromImage(sitk.ConnectedComponent(self.image(mask[box]), False))
        labels_ZYX[box] = found_ZYX
        sizes = np.bincount(found_ZYX.ravel())
        sizes[0] = 0
        return labels_ZYX, sizes

    @cached_property
    def enclosed_ZYX(self) -> Mask:
        """Which voxels have at least `WALL_MM` of tissue in front of them, and behind them."""
        front_ZYX = np.cumsum(self.hu_ZYX > TISSUE_HU, axis=1, dtype=np.int16)
        # As sums of lengths come out, for every pair of numbers of voxels: of all in a column, and up to a voxel.
        mm = np.arange(self.hu_ZYX.shape[1] + 1) * self.spacing[1]
        most = (mm[:, None] - mm >= WALL_MM).sum(axis=1, dtype=np.int16) - 1
        least = int(np.searchsorted(mm, WALL_MM))
        enclosed_ZYX: Mask = (front_ZYX >= least) & (front_ZYX <= most[front_ZYX[:, -1:]])
        return enclosed_ZYX


def shrink(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Mean over whole blocks of voxels, with a spacing as near to `spacing_mm` as that allows.

    Values are limited to `PADDING_HU` to `MAX_HU` first, so that low padding does not darken its neighbours.

    Args:
        image: int16 HU, at least one block large along each axis.
    """
    return shrink_by(image, [max(1, round(spacing_mm / s)) for s in image.GetSpacing()])


def shrink_by(image: sitk.Image, factors: Sequence[int]) -> sitk.Image:
    """As `shrink`, with the size of the blocks: voxels along x, y, z."""
    if max(factors) == 1:
        clamped: sitk.Image = sitk.Clamp(image, sitk.sitkInt16, PADDING_HU, MAX_HU)
        return clamped
    coarse = sitk.GetImageFromArray(_block_means(sitk.GetArrayViewFromImage(image), factors[::-1]))
    coarse.SetSpacing([s * factor for s, factor in zip(image.GetSpacing(), factors)])
    coarse.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([(factor - 1) / 2 for factor in factors]))
    coarse.SetDirection(image.GetDirection())
    return coarse


def block_size(image: sitk.Image, labels: sitk.Image) -> tuple[int, ...] | None:
    """Voxels of the scan along x, y, z that a voxel of the mask consists of; None where blocks of them make none."""
    factors = tuple(
        max(1, round(coarse / fine)) for coarse, fine in zip(labels.GetSpacing(), image.GetSpacing())
    )
    same = np.allclose(labels.GetDirection(), image.GetDirection(), rtol=0, atol=1e-6)
    whole = np.allclose(np.array(image.GetSpacing()) * factors, labels.GetSpacing(), rtol=1e-6, atol=0)
    first = image.TransformPhysicalPointToContinuousIndex(labels.GetOrigin())
    centred = np.allclose(first, [(factor - 1) / 2 for factor in factors], rtol=0, atol=1e-3)
    sizes = all(n // factor == m for n, factor, m in zip(image.GetSize(), factors, labels.GetSize()))
    return factors if same and whole and centred and sizes else None


def _block_means(hu_ZYX: NDArray[np.int16], factors_ZYX: Sequence[int]) -> NDArray[np.int16]:
    """Means of blocks of voxels limited to 12 bits, halves rounded up; without a copy of the volume."""
    fz, fy, fx = factors_ZYX
    out_ZYX = np.empty([n // factor for n, factor in zip(hu_ZYX.shape, factors_ZYX)], np.int16)
    rows, columns = out_ZYX.shape[1] * fy, out_ZYX.shape[2] * fx
    limited_YX = np.empty((rows, columns), np.int16)
    for z, mean_YX in enumerate(out_ZYX):
        total_YX = np.zeros((out_ZYX.shape[1], columns), np.int32)
        for first in range(z * fz, (z + 1) * fz, _INT16_SUM):
            column_YX = np.zeros((rows, columns), np.int16)
            for slice_YX in hu_ZYX[first : min(first + _INT16_SUM, (z + 1) * fz), :rows, :columns]:
                column_YX += np.clip(slice_YX, PADDING_HU, MAX_HU, out=limited_YX)
            for y in range(fy):
                total_YX += column_YX[y::fy]
        sums_YX = sum(total_YX[:, x::fx] for x in range(fx))
        mean_YX[:] = np.floor(sums_YX * (1 / (fz * fy * fx)) + 0.5)
    return out_ZYX


def bounding_box(mask: Mask, margin: list[int]) -> tuple[slice, ...]:
    """Bounding box of a mask as slices z, y, x, with a margin in voxels along z, y, x."""
    ends = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(max(0, end[0] - m), end[-1] + m + 1) for end, m in zip(ends, margin))
