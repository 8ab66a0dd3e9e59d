"""Lung masks on a grid finer than the segmenters' own, their surface placed by the density of the scan.

A mask of voxels of about 3 mm, copied to a scan's own voxels, has steps at its surface that cost 2% Dice even where
every coarse voxel is right. Within one coarse voxel of the surface the scan itself therefore decides, by the same
threshold as the classical segmenter. Where a coarse voxel is in the mask although it is dense (vessels and nodules
that were closed over, consolidation in the mask of a network) or not in it although it is dark (airways, air of the
bowel and around the body), density says nothing about the surface, and the coarse mask is interpolated.
"""

from __future__ import annotations

import itertools

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.lungs.classical import LUNG_HU
from ctplatform.lungs.coarse_grid import block_size, shrink_by
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.morphology import Ellipsoid, dilate

_WHOLE = 200
"""A share of 1 in the interpolated masks, which are 8-bit."""

_SLAB = 32
"""Slices at a time, for memory."""

OUTSIDE_HU = -32768
"""Of voxels beyond the scan."""


def fine_mask(image: sitk.Image, labels: sitk.Image, *, on: sitk.Image | None = None) -> sitk.Image:
    """A lung mask on the scan's own grid, or on any other.

    Args:
        image: the scan, int16 HU.
        labels: uint8, 50 the right and 100 the left lung, on a coarse grid in the scan's physical space.
        on: the scan interpolated on another grid, which the result takes, int16 HU and `OUTSIDE_HU` beyond the scan;
            None: the scan's own grid.

    Returns:
        uint8, 50 the right and 100 the left lung; 0 outside of the scan.
    """
    if on is None:
        starts = range(0, image.GetSize()[2], _SLAB)
        slabs = [fine_mask(image, labels, on=image[:, :, at : at + _SLAB]) for at in starts]
        whole = sitk.GetImageFromArray(np.concatenate([sitk.GetArrayViewFromImage(slab) for slab in slabs]))
        whole.CopyInformation(image)
        return whole
    box = _box(labels, on)
    if box is None:
        empty = sitk.Image(on.GetSize(), sitk.sitkUInt8)
        empty.CopyInformation(on)
        return empty
    part = sitk.RegionOfInterest(labels, *box)
    labels_ZYX = sitk.GetArrayViewFromImage(part)
    coarse_hu = _coarse_hu(image, labels, part, box)
    contradiction_ZYX = (labels_ZYX > 0) != (sitk.GetArrayViewFromImage(coarse_hu) < LUNG_HU)
    by_density_ZYX = ~dilate(contradiction_ZYX, Ellipsoid.of((1, 1, 1)))

    def on_grid(values_ZYX: NDArray[np.uint8], kind: int) -> NDArray[np.uint8]:
        source = sitk.GetImageFromArray(values_ZYX)
        source.CopyInformation(part)
        # The outermost half of a coarse voxel, and what is left behind the last whole one, is as that voxel is.
        placed = sitk.Resample(source, on, sitk.Transform(), kind, 0.0, sitk.sitkUInt8, True)
        return sitk.GetArrayFromImage(placed)

    share_ZYX = on_grid((labels_ZYX > 0) * np.uint8(_WHOLE), sitk.sitkLinear)
    # In one image, since placing one takes most of the time.
    codes_ZYX = on_grid(_sides(labels_ZYX) + by_density_ZYX, sitk.sitkNearestNeighbor)
    hu_ZYX = sitk.GetArrayViewFromImage(on)
    at_surface_ZYX = (share_ZYX > 0.05 * _WHOLE) & (share_ZYX < 0.95 * _WHOLE) & (codes_ZYX % 2 == 1)
    lung_ZYX = np.where(at_surface_ZYX, hu_ZYX < LUNG_HU, share_ZYX >= _WHOLE // 2) & (hu_ZYX > OUTSIDE_HU)
    sides_ZYX = codes_ZYX // 2 * 2
    result = sitk.GetImageFromArray(sides_ZYX * lung_ZYX)
    result.CopyInformation(on)
    return result


def _sides(labels_ZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The lung that a voxel and its neighbours are of: `RIGHT` or `LEFT`, both even, also beside the lungs."""
    from scipy import ndimage

    near = [ndimage.uniform_filter((labels_ZYX == side).astype(np.float32), 3) for side in (RIGHT, LEFT)]
    here = np.where(near[0] >= near[1], RIGHT, LEFT)
    return np.where(labels_ZYX > 0, labels_ZYX, here).astype(np.uint8)


def _box(labels: sitk.Image, grid: sitk.Image) -> tuple[list[int], list[int]] | None:
    """Size and first index of the mask's voxels that a grid lies on or beside; None if it lies elsewhere."""
    ends = itertools.product(*((0, n - 1) for n in grid.GetSize()))
    index_83 = np.array(
        [
            labels.TransformPhysicalPointToContinuousIndex(grid.TransformIndexToPhysicalPoint(end))
            for end in ends
        ]
    )
    # What lies less than a voxel beside the mask is extrapolated from its outermost voxels.
    most_3 = np.array(labels.GetSize()) - 1
    if (index_83.max(axis=0) < -1).any() or (index_83.min(axis=0) > most_3 + 1).any():
        return None
    low_3 = np.clip(np.floor(index_83.min(axis=0)).astype(int), 0, most_3)
    high_3 = np.clip(np.ceil(index_83.max(axis=0)).astype(int), 0, most_3) + 1
    return (high_3 - low_3).tolist(), low_3.tolist()


def _coarse_hu(
    image: sitk.Image, labels: sitk.Image, part: sitk.Image, box: tuple[list[int], list[int]]
) -> sitk.Image:
    """The scan on a part of the mask's grid: means where the mask's voxels are blocks of the scan's."""
    factors = block_size(image, labels)
    if factors is None:
        return sitk.Resample(image, part, sitk.Transform(), sitk.sitkLinear, OUTSIDE_HU, sitk.sitkInt16)
    size, first = ([n * factor for n, factor in zip(ns, factors)] for ns in box)
    return shrink_by(sitk.RegionOfInterest(image, size, first), factors)
