"""Separation of right and left lung: by connected components, or by a watershed where the lungs touch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.lungs.coarse_grid import TISSUE_HU, CoarseGrid, bounding_box
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.morphology import Mask

Separation = Literal["apart", "joined", "one"]
"""Lungs as separate components, lungs that touch each other, or one lung only."""


def split_left_right(scan: CoarseGrid, lung: Mask) -> tuple[NDArray[np.uint8], Separation]:
    """Label the patient's right (50) and left (100) lung, and say how they were separated.

    Args:
        lung: axes in LPS order, so that x grows to the patient's left.
    """
    labels_ZYX, sizes = scan.components(lung)
    order = np.argsort(-sizes, kind="stable")
    out = np.zeros(lung.shape, np.uint8)
    if len(order) > 1 and sizes[order[1]] > 0.12 * sizes[order[0]]:
        x_mm = [_mean_x(labels_ZYX == label) * scan.spacing[0] for label in order[:2]]
        if abs(x_mm[0] - x_mm[1]) > 60:
            return _by_position(scan, labels_ZYX, sizes, x_mm), "apart"
    box = bounding_box(lung, [1, 1, 1])  # the distance map is needed in the lungs only
    joined = _by_watershed(CoarseGrid(scan.hu_ZYX[box], scan.spacing), lung[box])
    if joined is not None:
        out[box] = joined
        return out, "joined"
    tissue_x = _mean_x(scan.hu_ZYX > TISSUE_HU)
    out[lung] = RIGHT if _mean_x(lung) < tissue_x else LEFT
    return out, "one"


def _by_watershed(scan: CoarseGrid, lung: Mask) -> NDArray[np.uint8] | None:
    """Both lungs, grown from their cores; None if there are no two cores of similar size."""
    out = np.zeros(lung.shape, np.uint8)
    distance = sitk.SignedMaurerDistanceMap(scan.image(lung), True, False, True)
    for threshold in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22):
        cores_ZYX = sitk.GetArrayFromImage(sitk.ConnectedComponent(distance > float(threshold)))
        core_sizes = np.bincount(cores_ZYX.ravel())
        core_sizes[0] = 0
        pair = np.argsort(-core_sizes, kind="stable")[:2]
        if len(core_sizes) < 3 or core_sizes[pair[1]] < 0.25 * core_sizes[pair[0]]:
            continue
        x_mm = [_mean_x(cores_ZYX == label) * scan.spacing[0] for label in pair]
        if abs(x_mm[0] - x_mm[1]) < 60:
            continue
        right, left = pair if x_mm[0] < x_mm[1] else pair[::-1]
        markers = np.zeros(lung.shape, np.uint8)
        markers[cores_ZYX == right], markers[cores_ZYX == left] = 1, 2
        basins = sitk.MorphologicalWatershedFromMarkers(-distance, scan.image(markers), False, False)
        basins_ZYX = sitk.GetArrayViewFromImage(basins)
        out[lung & (basins_ZYX == 1)], out[lung & (basins_ZYX == 2)] = RIGHT, LEFT
        return out
    return None


def _mean_x(mask: Mask) -> float:
    """Mean voxel index along x."""
    columns = mask.sum(axis=(0, 1))
    return float((columns * np.arange(len(columns))).sum() / max(1, columns.sum()))


def _by_position(
    scan: CoarseGrid, labels_ZYX: NDArray[Any], sizes: NDArray[Any], x_mm: list[float]
) -> NDArray[np.uint8]:
    """Label of every component: right or left of the middle between the two largest."""
    middle = sum(x_mm) / 2
    out = np.zeros(labels_ZYX.shape, np.uint8)
    for label in np.flatnonzero(sizes):
        part = labels_ZYX == label
        out[part] = RIGHT if _mean_x(part) * scan.spacing[0] < middle else LEFT
    return out
