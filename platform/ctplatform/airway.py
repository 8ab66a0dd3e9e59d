"""Trachea and main bronchi: found from the top, followed slice by slice, then grown a little past the
carina."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ctplatform.lungs import Grid

LUMEN_HU = -900
SMALLEST_MM2, LARGEST_MM2 = 60.0, 900.0
SHORTEST_MM = 12.0
WALL_MM = 2.0


@dataclass(frozen=True)
class Airway:
    """What was found: a mask of lumen and wall, and the length of the trachea in mm (0: not found)."""

    mask_ZYX: NDArray[np.bool_]
    length_mm: float


def find(scan: Grid, dark: NDArray[np.bool_]) -> Airway:
    """Follow the trachea down to where it opens into the lungs or splits, then into the main bronchi.

    Args:
        dark: everything darker than tissue inside the body.
    """
    trachea, length_mm = _trachea(scan, dark)
    if not trachea.any():
        return Airway(trachea, 0.0)
    tree = _bronchi(scan, dark, trachea)
    return Airway(scan.dilate(tree, WALL_MM, least=0), length_mm)


def _trachea(scan: Grid, dark: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float]:
    """The longest tube of a steady, small cross-section, followed from the top; an apex of a lung widens too soon."""
    pixel_mm2 = scan.spacing[0] * scan.spacing[1]
    best, best_mm = np.zeros_like(dark), 0.0
    tube = np.zeros_like(dark)
    current, area, first = None, 0.0, 0

    def finish(last: int) -> None:
        nonlocal best, best_mm, tube, current
        length_mm = (first - last + 1) * scan.spacing[2]
        if length_mm > max(best_mm, SHORTEST_MM):
            best, best_mm = tube, length_mm
        tube, current = np.zeros_like(dark), None

    for z in range(len(dark) - 1, -1, -1):
        labels_YX = sitk.GetArrayFromImage(sitk.ConnectedComponent(scan.slice_image(dark[z])))
        if current is not None:
            touched = np.unique(labels_YX[current])
            current = np.isin(labels_YX, touched[touched > 0])
            wide = current.sum() * pixel_mm2 > min(LARGEST_MM2, max(2.2 * area, 450.0))
            if wide or not current.any():
                finish(z + 1)
                if best_mm > 40:
                    break
        if current is None:
            current, first = _start(scan, z, labels_YX), z
        if current is not None:
            tube[z], area = current, current.sum() * pixel_mm2
    if current is not None:
        finish(0)
    return best, best_mm


def _start(scan: Grid, z: int, labels_YX: NDArray) -> NDArray[np.bool_] | None:
    """The round, central, dark spot of a slice that can be the trachea."""
    x_mm, y_mm, _ = scan.spacing
    tissue = np.nonzero(scan.hu_ZYX[z] > -300)
    if len(tissue[0]) == 0:
        return None
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
        off = abs(x.mean() - middle_x) * x_mm + 0.5 * abs(y.mean() - middle_y) * y_mm
        if off < best:
            best, found = off, labels_YX == label
    return found


def _bronchi(scan: Grid, dark: NDArray[np.bool_], trachea: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow through lumen-dark voxels from the trachea's end, a few centimetres, as long as it stays thin."""
    lumen = dark & (scan.hu_ZYX < LUMEN_HU)
    tree = trachea.copy()
    bottom = int(np.flatnonzero(trachea.any(axis=(1, 2)))[0])
    lumen[bottom + 1 :] &= trachea[bottom + 1 :]
    front = np.zeros_like(tree)
    front[bottom : bottom + 2] = trachea[bottom : bottom + 2]
    limit_ml = 12.0
    step_mm = min(scan.spacing)
    grown_ml = 0.0
    for _ in range(round(45.0 / step_mm)):
        front = scan.dilate(front, 0.0) & lumen & ~tree
        added_ml = float(front.sum() * scan.voxel_ml)
        if added_ml == 0 or added_ml > 1.5 or grown_ml + added_ml > limit_ml:
            break
        tree |= front
        grown_ml += added_ml
    return tree
