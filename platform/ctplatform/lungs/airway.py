"""Trachea and main bronchi: found at the top of a scan and followed downwards, slice by slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctplatform.lungs.coarse_grid import CoarseGrid
from ctplatform.lungs.morphology import Mask

SMALLEST_MM2, LARGEST_MM2 = 60.0, 900.0
"""Cross-section of a trachea."""

SHORTEST_MM = 12.0
LEVELS_HU = (0, -700, -850, -920)
"""Thresholds of the lumen, from the brightest; a darker one where a thin wall opens the lumen to the lung."""

BRONCHI_MM = 55.0
"""Length to which the tube is followed at the darker levels; in emphysema it would not end at the main bronchi."""

WALL_MM = 2.0


@dataclass(frozen=True)
class Airway:
    """Trachea and main bronchi: a mask of lumen and wall, and their length along z in mm (0: not found)."""

    mask_ZYX: Mask
    length_mm: float


def find_airway(scan: CoarseGrid, dark: Mask) -> Airway:
    """Follow the trachea down, past its end, into the main bronchi.

    Args:
        dark: voxels inside the body that are darker than tissue.
    """
    tube, length_mm = _tube(scan, dark)
    return Airway(scan.dilate(tube, WALL_MM, least=0), length_mm)


def _tube(scan: CoarseGrid, dark: Mask) -> tuple[Mask, float]:
    """The longest tube of a steady, small cross-section, and its length; the apex of a lung widens too soon."""
    pixel_mm2 = scan.spacing[0] * scan.spacing[1]
    best, best_mm = np.zeros_like(dark), 0.0
    tube = np.zeros_like(dark)
    current, area, first, leaking_mm = None, 0.0, 0, 0.0

    def finish(last: int) -> None:
        nonlocal best, best_mm, tube, current
        length_mm = (first - last + 1) * scan.spacing[2]
        if length_mm > max(best_mm, SHORTEST_MM):
            best, best_mm = tube, length_mm
        tube, current = np.zeros_like(dark), None

    for z in range(len(dark) - 1, -1, -1):
        if current is not None:
            limit = min(LARGEST_MM2, max(2.0 * area, 450.0)) / pixel_mm2
            levels = LEVELS_HU if leaking_mm < BRONCHI_MM else LEVELS_HU[:1]
            current, level = _follow(scan, dark[z], z, current, limit=limit, levels=levels)
            leaking_mm += scan.spacing[2] * (level != LEVELS_HU[0])
            if current is None:
                finish(z + 1)
                if best_mm > 40:
                    break
        if current is None:
            current, first, leaking_mm = _start(scan, z, _components(dark[z])), z, 0.0
        if current is not None:
            tube[z], area = current, current.sum() * pixel_mm2
    if current is not None:
        finish(0)
    return best, best_mm


def _follow(
    scan: CoarseGrid, dark_YX: Mask, z: int, above: Mask, *, limit: float, levels: tuple[int, ...]
) -> tuple[Mask | None, int]:
    """The tube in the next slice, at the brightest level at which it does not leak into the lung, and that level."""
    for level in levels:
        labels_YX = _components(dark_YX & (scan.hu_ZYX[z] < level))
        touched = np.unique(labels_YX[above])
        found = np.isin(labels_YX, touched[touched > 0])
        if not found.any():
            break
        if found.sum() <= limit:
            return found, level
    return None, levels[-1]


def _components(mask_YX: Mask) -> NDArray[np.int32]:
    """Components that share an edge, numbered from 1."""
    from scipy import ndimage

    labels_YX: NDArray[np.int32] = ndimage.label(mask_YX)[0]
    return labels_YX


def _start(scan: CoarseGrid, z: int, labels_YX: NDArray[np.int32]) -> Mask | None:
    """The round, central, dark spot of a slice that can be the trachea."""
    x_mm, y_mm, _ = scan.spacing
    tissue_YX = scan.hu_ZYX[z] > -300
    if not tissue_YX.any():
        return None
    tissue = np.nonzero(tissue_YX)
    middle_y, middle_x = (float(axis.mean()) for axis in tissue)
    best, found = 60.0, None
    sizes = np.bincount(labels_YX.ravel())
    for label in range(1, len(sizes)):
        area = sizes[label] * x_mm * y_mm
        if not SMALLEST_MM2 < area < LARGEST_MM2 * 0.7:
            continue
        y, x = np.nonzero(labels_YX == label)
        width, height = (np.ptp(x) + 1) * x_mm, (np.ptp(y) + 1) * y_mm
        round_enough = area / (width * height) > 0.55 and 0.4 < width / height < 2.2
        if not round_enough or scan.hu_ZYX[z][y, x].min() > -850:
            continue
        row, column = tissue_YX[round(y.mean())], tissue_YX[:, round(x.mean())]
        around = (row[: x.min()], row[x.max() + 1 :], column[: y.min()], column[y.max() + 1 :])
        # Air under a blanket has no tissue on one side.
        if min(int(part.sum()) for part in around) * max(x_mm, y_mm) < 10:
            continue
        off = abs(x.mean() - middle_x) * x_mm + 0.5 * abs(y.mean() - middle_y) * y_mm
        if off < best:
            best, found = off, labels_YX == label
    return found
