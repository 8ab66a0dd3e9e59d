"""Masks of the default segmenter compared with known lungs."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ctplatform.config.preparation import LungsConfig
from ctplatform.lungs.fine_mask import fine_mask
from ctplatform.lungs.mask import LungMask
from ctplatform.lungs.segmenter import make_segmenter

SEGMENT = make_segmenter(LungsConfig.model_validate({}))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def on_grid(mask: LungMask, image: sitk.Image) -> np.ndarray:
    """The labels of a mask on the grid of the scan."""
    nearest = sitk.sitkNearestNeighbor
    return sitk.GetArrayFromImage(
        sitk.Resample(mask.labels, image, sitk.Transform(), nearest, 0.0, sitk.sitkUInt8, True)
    )


def fine_on_grid(mask: LungMask, image: sitk.Image) -> np.ndarray:
    """The labels of a mask on the grid of the scan, as a user gets them."""
    return sitk.GetArrayFromImage(fine_mask(image, mask.labels))


def edited(image: sitk.Image, array: np.ndarray) -> sitk.Image:
    """Another content on the grid of `image`."""
    new = sitk.GetImageFromArray(array.astype(np.int16))
    new.CopyInformation(image)
    return new
