"""Evidence in the image on whether a scan is reversed front to back or upside down.

Headers that lie about an axis put patches of the bases at locations of the apex, and the fit to the atlas hardly shows
it: lungs are nearly ellipsoids. Two things lie on one side of every chest: most bone near the midline is behind, spine
against sternum; and lungs are convex above and, by the domes of the diaphragm, flat or concave below. Both measures
change their sign with the axis. `laterality` has that of left and right. Where y and z are swapped, the body goes
through the planes of the wrong axis.

On nine real scans of other sources, bone lies between 0.46 and 0.99 and, where both ends of the lungs are seen, the
shape between 1.0 and 2.7 (`tests/benchmarks/reversals.py`); of the first and the last slice 19% and more are tissue, of
the foremost plane 4% at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.lungs.coarse_grid import TISSUE_HU
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.morphology import lowest_slices

REJECT_BONE, FLAG_BONE = -0.25, 0.0
REJECT_SHAPE, FLAG_SHAPE = -0.4, 0.0

ENDS_SHARE, THROUGH_SHARE = 0.05, 0.1
"""Share of tissue on an end plane below which the body does not reach it, and above which it goes through."""

BONE_HU = 200
"""On a grid of some millimetres."""

MIDLINE_MM = 45.0
OUTER = 0.3
"""Bone is counted beyond this share of the lungs' depth from their middle, where contrast in the heart is not."""

MIN_BONE_ML = 3.0
OPEN_CM2 = 10.0
"""With more lung than this on its first or last slice, the scan does not show that end of the lungs."""


@dataclass(frozen=True)
class BodyAxes:
    """Signs of the body's axes; NaN where the evidence is not in the scan.

    Attributes:
        bone_behind: bone near the midline behind the lungs' middle less that before it, as a share of both, -1 to 1.
        apex_above: how much the upper and the lower surface of the lungs rise, together, from their rim to their
            middle, mm a mm.
        swapped: share of tissue on the less of the two end planes of y, where the body goes through both and ends
            within the planes of z; else NaN.
    """

    bone_behind: float
    apex_above: float
    swapped: float


def measure_body_axes(hu_ZYX: NDArray[np.int16], labels: sitk.Image) -> BodyAxes:
    """Measure a scan.

    Args:
        hu_ZYX: the scan on the grid of `labels`.
        labels: lung mask, axes nearest to LPS.
    """
    labels_ZYX = sitk.GetArrayViewFromImage(labels)
    spacing = labels.GetSpacing()
    return BodyAxes(_bone(hu_ZYX, labels_ZYX, spacing), _shape(labels_ZYX, spacing), _swapped(hu_ZYX))


def _bone(hu_ZYX: NDArray[np.int16], labels_ZYX: NDArray[np.uint8], spacing: tuple[float, ...]) -> float:
    lung = labels_ZYX > 0
    slices, rows = np.flatnonzero(lung.any(axis=(1, 2))), np.flatnonzero(lung.any(axis=(0, 2)))
    sides = [np.flatnonzero((labels_ZYX == label).any(axis=(0, 1))) for label in (RIGHT, LEFT)]
    if not all(len(side) for side in sides):
        return math.nan
    halves = [(labels_ZYX == label).sum(axis=(0, 1)) for label in (RIGHT, LEFT)]
    x = np.arange(labels_ZYX.shape[2])
    middle_x = sum(float((half * x).sum() / half.sum()) for half in halves) / 2
    half_width = MIDLINE_MM / spacing[0]
    near = slice(max(0, int(middle_x - half_width)), int(middle_x + half_width) + 1)
    bone_Y = (hu_ZYX[slices[0] : slices[-1] + 1, :, near] > BONE_HU).sum(axis=(0, 2))
    from_middle = np.arange(len(bone_Y)) - (rows[0] + rows[-1]) / 2
    outer = OUTER * (rows[-1] - rows[0])
    back, front = int(bone_Y[from_middle > outer].sum()), int(bone_Y[from_middle < -outer].sum())
    if (back + front) * math.prod(spacing) / 1000 < MIN_BONE_ML:
        return math.nan
    return (back - front) / (back + front)


def _swapped(hu_ZYX: NDArray[np.int16]) -> float:
    filled = np.flatnonzero(hu_ZYX.max(axis=(1, 2)) != hu_ZYX.min(axis=(1, 2)))
    if not len(filled):
        return math.nan
    part_ZYX = hu_ZYX[filled[0] : filled[-1] + 1]  # without empty slices that were added
    z_share, y_share = (
        min(float((part_ZYX.take(end, axis=axis) > TISSUE_HU).mean()) for end in (0, -1)) for axis in (0, 1)
    )
    return y_share if z_share < ENDS_SHARE and y_share > THROUGH_SHARE else math.nan


def _shape(labels_ZYX: NDArray[np.uint8], spacing: tuple[float, ...]) -> float:
    pixel_cm2 = spacing[0] * spacing[1] / 100
    if max(int((labels_ZYX[end] > 0).sum()) for end in (0, -1)) * pixel_cm2 > OPEN_CM2:
        return math.nan
    rises = []
    for label in (RIGHT, LEFT):
        lung = labels_ZYX == label
        footprint_YX = lung.any(axis=0)
        if footprint_YX.sum() < 20:
            continue
        footprint = sitk.GetImageFromArray(footprint_YX.astype(np.uint8))
        footprint.SetSpacing(spacing[:2])
        depth = sitk.SignedMaurerDistanceMap(footprint, True, False, True)
        depth_N = sitk.GetArrayViewFromImage(depth)[footprint_YX]
        top_N = (len(lung) - 1 - lowest_slices(lung[::-1])[footprint_YX]) * spacing[2]
        bottom_N = lowest_slices(lung)[footprint_YX] * spacing[2]
        away_N = depth_N - depth_N.mean()
        rises.append(float(away_N @ (top_N + bottom_N) / (away_N @ away_N)))
    return sum(rises) / len(rises) if rises else math.nan
