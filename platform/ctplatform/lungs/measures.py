"""Measures of a lung mask: volumes, parts cut off by the field of view, and lung density on the scan's own voxels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.lungs.coarse_grid import CoarseGrid, block_size, bounding_box
from ctplatform.lungs.mask import LEFT, RIGHT

BASE_CM2 = 3.0
"""Cross-section below which a lung has ended at its base."""


def mask_measures(scan: CoarseGrid, labels_ZYX: NDArray[np.uint8]) -> dict[str, float]:
    """Volumes, and the area of lung on the faces of the scan.

    Returns:
        volume_l, right_l, left_l: litres; side_ratio: right over left volume; cut_top_cm2, cut_bottom_cm2,
            cut_side_cm2: lung on the first and last slice and on the four other faces; base_step_mm: how much higher
            the right lung ends below than the left one.
    """
    lung = labels_ZYX > 0
    x_mm, y_mm, z_mm = scan.spacing
    right, left = (float((labels_ZYX == label).sum() * scan.voxel_ml / 1000) for label in (RIGHT, LEFT))
    rim = sum(int(face.sum()) for face in (lung[:, :, 0], lung[:, :, -1])) * y_mm * z_mm
    rim += sum(int(face.sum()) for face in (lung[:, 0], lung[:, -1])) * x_mm * z_mm
    return {
        "volume_l": right + left,
        "right_l": right,
        "left_l": left,
        "side_ratio": right / left if left else math.inf,
        "cut_top_cm2": float(lung[-1].sum() * x_mm * y_mm / 100),
        "cut_bottom_cm2": float(lung[0].sum() * x_mm * y_mm / 100),
        "cut_side_cm2": rim / 100,
        "base_step_mm": _base_step(labels_ZYX, scan.spacing),
    }


def _base_step(labels_ZYX: NDArray[np.uint8], spacing: tuple[float, float, float]) -> float:
    """How much higher the right lung ends below than the left one, mm; 0 with one lung only."""
    x_mm, y_mm, z_mm = spacing
    ends = []
    for label in (RIGHT, LEFT):
        area_Z = (labels_ZYX == label).sum(axis=(1, 2)) * x_mm * y_mm / 100
        ends.append(np.flatnonzero(area_Z > BASE_CM2)[:1])
    return float((ends[0][0] - ends[1][0]) * z_mm) if all(len(end) for end in ends) else 0.0


def density(image: sitk.Image, labels: sitk.Image) -> dict[str, float]:
    """Densitometry of the masked voxels of the scan, at the scan's own spacing.

    Returns:
        laa950: fraction of lung voxels below -950 HU; perc15: 15th percentile, HU; mean_hu; volume_l,
            right_l, left_l: litres.

    Raises:
        ScanError: no-lung, the mask is empty.
    """
    if not sitk.GetArrayViewFromImage(labels).any():
        raise ScanError("no lung was found in the scan", "Check that it is a CT of the chest", code="no-lung")
    # Slice by slice, without a copy of all lung voxels.
    histogram, total, right = np.zeros(1 - PADDING_HU, np.int64), 0, 0
    for hu_YX, label_YX in _slices(image, labels):
        hu = np.maximum(hu_YX[label_YX > 0], PADDING_HU)
        histogram += np.bincount(np.minimum(hu, 0) - PADDING_HU, minlength=len(histogram))
        total += int(hu.sum(dtype=np.int64))
        right += int(np.count_nonzero(label_YX == RIGHT))
    count = int(histogram.sum())
    voxel_l = math.prod(image.GetSpacing()) / 1e6
    return {
        "laa950": float(histogram[: -950 - PADDING_HU].sum() / count),
        "perc15": float(np.searchsorted(np.cumsum(histogram) / count, 0.15) + PADDING_HU),
        "mean_hu": total / count,
        "volume_l": count * voxel_l,
        "right_l": right * voxel_l,
        "left_l": (count - right) * voxel_l,
    }


def _slices(image: sitk.Image, labels: sitk.Image) -> Iterator[tuple[NDArray[np.int16], NDArray[np.uint8]]]:
    """Slices of the scan with the nearest label of each voxel, both cropped to the lungs."""
    factors = block_size(image, labels)
    if factors is None:
        image = _part_with_lung(image, labels)
        native = sitk.Resample(
            labels, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8, True
        )
        yield from zip(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(native))
        return
    hu_ZYX, labels_ZYX = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(labels)
    # Behind the last whole block, one more voxel has the label of the last coarse one, as in the resampled mask.
    nearest_ZYX = [
        np.minimum(np.arange(min(fine, coarse * factor + 1)) // factor, coarse - 1)
        for fine, factor, coarse in zip(hu_ZYX.shape, factors[::-1], labels_ZYX.shape)
    ]
    for coarse, label_YX in enumerate(labels_ZYX):
        if not label_YX.any():
            continue
        rows, columns = (
            slice(int(used[0]), int(used[-1]) + 1)
            for used in (
                np.flatnonzero(label_YX.any(axis=1 - axis)[nearest])
                for axis, nearest in enumerate(nearest_ZYX[1:])
            )
        )
        fine_YX = label_YX[nearest_ZYX[1][rows]][:, nearest_ZYX[2][columns]]
        for z in np.flatnonzero(nearest_ZYX[0] == coarse):
            yield hu_ZYX[z, rows, columns], fine_YX


def _part_with_lung(image: sitk.Image, labels: sitk.Image) -> sitk.Image:
    """The scan cropped to the lung mask's bounding box, a coarse voxel wider."""
    box = bounding_box(sitk.GetArrayViewFromImage(labels) > 0, [1, 1, 1])
    ends = [(s.start, min(s.stop, n)) for s, n in zip(box[::-1], labels.GetSize())]
    corners = itertools.product(*((float(low) - 0.5, float(high) - 0.5) for low, high in ends))
    index_83 = np.array(
        [
            image.TransformPhysicalPointToContinuousIndex(
                labels.TransformContinuousIndexToPhysicalPoint(corner)
            )
            for corner in corners
        ]
    )
    low_3 = np.clip(np.floor(index_83.min(axis=0)).astype(int), 0, np.array(image.GetSize()) - 1)
    high_3 = np.clip(np.ceil(index_83.max(axis=0)).astype(int) + 1, low_3 + 1, image.GetSize())
    part: sitk.Image = sitk.RegionOfInterest(image, (high_3 - low_3).tolist(), low_3.tolist())
    return part
