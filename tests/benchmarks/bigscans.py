"""Scans of stated sizes made from a real one, for benchmarks of time and memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume

NOISE_HU = 15.0
SOURCE = "lidc_0001/cxr.nii.gz"


def resliced(ct: Path, slices: int) -> sitk.Image:
    """The 512 x 512 x 133 scan of `SOURCE`, its slices interpolated to another number of them.

    Interpolation smooths noise, which would make packed files too small and too quick to read: white noise is added.
    """
    source = ct / SOURCE
    if not source.is_file():
        sys.exit(f"The scan {SOURCE} is not among the real CTs.")
    image = read_volume(source).image
    x, y, z = image.GetSpacing()
    thickness = z * image.GetSize()[2] / slices
    size = [image.GetSize()[0], image.GetSize()[1], slices]
    thin = sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        image.GetOrigin(),
        [x, y, thickness],
        image.GetDirection(),
        -1024.0,
        sitk.sitkInt16,
    )
    hu_ZYX, rng = sitk.GetArrayFromImage(thin), np.random.default_rng(0)
    for slice_YX in hu_ZYX:
        noise = rng.normal(0, NOISE_HU, slice_YX.shape)
        slice_YX[:] = np.where(slice_YX > -1024, np.clip(slice_YX + noise, -1023, 3071), -1024)
    made = sitk.GetImageFromArray(hu_ZYX)
    made.CopyInformation(thin)
    return made


def write(image: sitk.Image, folder: Path) -> dict[str, Path]:
    """The same scan as a DICOM series and as .nii.gz."""
    folder.mkdir(parents=True)
    sitk.WriteImage(image, str(folder / "scan.nii.gz"))
    write_dicom_series(image, folder / "dicom")
    return {"DICOM": folder / "dicom", ".nii.gz": folder / "scan.nii.gz"}
