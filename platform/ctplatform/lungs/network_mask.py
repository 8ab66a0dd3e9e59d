"""The lung mask of labels that a network gave for a scan, on the grid of the other segmenters' masks."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.lungs.coarse_grid import CoarseGrid, shrink
from ctplatform.lungs.mask import LungMask
from ctplatform.lungs.measures import mask_measures


def network_mask(labels: sitk.Image, image: sitk.Image, *, spacing_mm: float) -> LungMask:
    """Labels of both lungs on a grid of about `spacing_mm`, measured.

    Args:
        labels: uint8, 50 the right and 100 the left lung, in the scan's physical space.
        image: the scan, int16 HU, axes in LPS order.

    Raises:
        ScanError: no-lung.
    """
    coarse = shrink(image, spacing_mm)
    placed = sitk.Resample(labels, coarse, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8)
    labels_ZYX = sitk.GetArrayViewFromImage(placed)
    if not labels_ZYX.any():
        raise ScanError(
            "no lung was found in the scan",
            "Check that it is a CT of the chest in Hounsfield units; else exclude it",
            code="no-lung",
        )
    scan = CoarseGrid(sitk.GetArrayFromImage(coarse), coarse.GetSpacing())
    notes = () if len(np.unique(labels_ZYX)) == 3 else ("only one lung was found",)
    return LungMask(placed, mask_measures(scan, labels_ZYX), notes)
