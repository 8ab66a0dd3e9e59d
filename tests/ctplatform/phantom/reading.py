"""The configuration of the test cohort, and its images as arrays."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ctplatform.config.recipe import PhantomConfig

CONFIG = PhantomConfig(subjects=8, seed=3, spacing_mm=3.0, dicom_every=4)
CENTRILOBULAR, PANLOBULAR, PARASEPTAL, NODULE = 1, 2, 4, 8


def lps(image: sitk.Image) -> np.ndarray:
    """Voxels z, y, x with axes to the left, back and head (nearest)."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
