"""Evidence in the image on whether a scan is mirrored left-right, which no overlap with the atlas can show.

Two things lie on one side of nearly every chest: the heart pushes the tissue between the lungs to the left, and the
liver fills the space under the right dome, where the left one has fat, stomach and its gas as well. Both are
differences between the sides, so the evidence of a mirrored scan is that of the scan with the other sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.morphology import lowest_slices

HEART_MM, SOFT = 8.0, 0.2
"""Half of the two differences as most scans have them: each then contributes about 1 to 2 to the evidence."""

SLOPE = 3.0
"""Log odds a unit of evidence: lower than measured, since it was measured on few scans."""

SLOPE_ALONE = 1.0
"""The same where the domes cannot be seen: collapse and effusion shift the heart as far as most mirroring does."""

SOFT_HU = (0, 250)
LEVELS = (0.1, 0.65)
"""Range in which the heart is looked for, as shares of the lungs' height from below."""

DOME_MARGIN_MM = 12.0
UNDER_DOME_MM = 30.0
OPEN_CM2 = 10.0
"""With more lung than this on the lowest slice, the scan ends above the domes."""


@dataclass(frozen=True)
class Laterality:
    """Differences between the patient's left and right.

    Attributes:
        heart_mm: how far left of the middle between the outer edges of the lungs the tissue between them lies.
        soft: share of soft tissue under the right dome minus that under the left one; NaN where it cannot be seen.
    """

    heart_mm: float
    soft: float

    @property
    def mirrored(self) -> float:
        """Probability that the scan is mirrored, if both were equally likely before."""
        if math.isnan(self.soft):
            log_odds = SLOPE_ALONE * self.heart_mm / HEART_MM
        else:
            log_odds = SLOPE * (self.heart_mm / HEART_MM + self.soft / SOFT)
        return 1 / (1 + math.exp(min(50.0, log_odds)))


def measure_laterality(hu_ZYX: NDArray[np.int16], labels: sitk.Image) -> Laterality:
    """Compare the patient's left and right.

    Args:
        hu_ZYX: the scan on the grid of `labels`.
        labels: lung mask, axes nearest to LPS.
    """
    labels_ZYX = sitk.GetArrayViewFromImage(labels)
    spacing = labels.GetSpacing()
    return Laterality(_heart(labels_ZYX, spacing), _soft(hu_ZYX, labels_ZYX, spacing))


def _heart(labels_ZYX: NDArray[np.uint8], spacing: tuple[float, ...]) -> float:
    slices = np.flatnonzero((labels_ZYX > 0).any(axis=(1, 2)))
    if not len(slices):
        return 0.0
    height = slices[-1] + 1 - slices[0]
    part = labels_ZYX[slices[0] + int(LEVELS[0] * height) : slices[0] + max(1, int(LEVELS[1] * height))]
    right, left = part == RIGHT, part == LEFT
    last = part.shape[2] - 1
    outer_Z = (right.any(axis=1).argmax(axis=1) + last - left.any(axis=1)[:, ::-1].argmax(axis=1)) / 2
    right_ZY, left_ZY = last - right[:, :, ::-1].argmax(axis=2), left.argmax(axis=2)
    width_ZY = np.where(right.any(axis=2) & left.any(axis=2), np.maximum(left_ZY - right_ZY, 0), 0)
    if not width_ZY.any():
        return 0.0
    offset_ZY = (right_ZY + left_ZY) / 2 - outer_Z[:, None]
    return float((offset_ZY * width_ZY).sum() / width_ZY.sum() * spacing[0])


def _soft(hu_ZYX: NDArray[np.int16], labels_ZYX: NDArray[np.uint8], spacing: tuple[float, ...]) -> float:
    if (labels_ZYX[0] > 0).sum() * spacing[0] * spacing[1] / 100 > OPEN_CM2:
        return math.nan
    shares = []
    for label in (RIGHT, LEFT):
        lung = labels_ZYX == label
        footprint = sitk.GetImageFromArray(lung.any(axis=0).astype(np.uint8))
        footprint.SetSpacing(spacing[:2])
        depth = sitk.SignedMaurerDistanceMap(footprint, True, False, True)
        y_N, x_N = np.nonzero(sitk.GetArrayViewFromImage(depth) > DOME_MARGIN_MM)
        bottom_N = lowest_slices(lung)[y_N, x_N]
        z_MN = bottom_N - np.arange(2, int(UNDER_DOME_MM / spacing[2]) + 1)[:, None]
        seen_MN = z_MN >= 0
        y_MN, x_MN = np.broadcast_to(y_N, z_MN.shape)[seen_MN], np.broadcast_to(x_N, z_MN.shape)[seen_MN]
        values = hu_ZYX[z_MN[seen_MN], y_MN, x_MN][labels_ZYX[z_MN[seen_MN], y_MN, x_MN] == 0]
        if values.size < 50:
            return math.nan
        shares.append(float(np.mean((values > SOFT_HU[0]) & (values < SOFT_HU[1]))))
    return shares[0] - shares[1]
