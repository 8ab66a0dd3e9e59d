"""DICOM series of a folder: which one to use, and its pixels in HU.

Last of three steps, after `dicom_headers` (files to series) and `dicom_geometry` (slices to a grid). Pixels are read
with SimpleITK (GDCM), and with pydicom where GDCM refuses them.

Errors name positions in mm and counts, never file names or header texts, which may name a patient.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_geometry import SeriesGeometry, series_geometry
from ctplatform.imaging.dicom_headers import Series, Slice, quiet_pydicom

AXIAL_COSINE = 0.8
"""Least cosine between the slices' normal and the body's long axis."""

SLICES_AT_A_TIME = 64
"""Slices decoded together: the decoder holds 4 bytes a voxel."""


def choose_series(found: Sequence[Series]) -> tuple[Series | None, list[tuple[Series, str]]]:
    """The axial CT series of a study to use, and every other one with the reason against it.

    Series that `series_geometry` refuses and those that are not axial cannot be used. The others are ranked by, in
    this order: original before derived; at least 80% of the longest coverage; thinner slices, in the classes up to
    1.5, 3, 5 mm and more; a smooth kernel before a sharp one; more slices; the smaller UID.

    Returns:
        The series, None if none can be used; and the others, each with its reason.
    """
    usable: list[tuple[Series, SeriesGeometry]] = []
    rejected: list[tuple[Series, str]] = []
    for series in found:
        try:
            geometry = series_geometry(series)
        except ScanError as error:
            rejected.append((series, error.problem))
            continue
        if abs(geometry.direction[8]) < AXIAL_COSINE:
            rejected.append((series, "not axial"))
        else:
            usable.append((series, geometry))
    if not usable:
        return None, rejected
    longest = max(len(geometry.slices) * geometry.spacing[2] for _, geometry in usable)

    def rank(item: tuple[Series, SeriesGeometry]) -> tuple[Any, ...]:
        series, geometry = item
        derived = any(word in ("DERIVED", "MPR", "MIP", "MINIP") for word in geometry.slices[0].image_type)
        short = len(geometry.slices) * geometry.spacing[2] < 0.8 * longest
        thickness = max(geometry.spacing[2], series.thickness or 0.0)
        thick = int(np.searchsorted([1.5, 3.0, 5.0], thickness))
        return derived, short, thick, is_sharp_kernel(series.kernel), -len(geometry.slices), series.uid

    first, *others = sorted(usable, key=rank)
    reasons = ("derived", "shorter coverage", "thicker slices", "sharper kernel", "fewer slices", "later UID")
    for other in others:
        at = next(i for i, (a, b) in enumerate(zip(rank(first), rank(other))) if a != b)
        rejected.append((other[0], f"{reasons[at]} than another series of the study"))
    return first[0], rejected


def is_sharp_kernel(kernel: str) -> bool:
    """Whether a reconstruction kernel (`Series.kernel`) sharpens so much that densities are distorted."""
    name = kernel.upper()
    number = re.search(r"\d{2}", name)
    if name.startswith("FC"):
        return number is not None and int(number.group()) >= 30
    if number:
        return int(number.group()) >= 50
    return name in {"LUNG", "BONE", "BONEPLUS", "EDGE", "ULTRA", "SHARP", "D", "E", "L", "YC", "YD"}


def read_pixels(geometry: SeriesGeometry) -> NDArray[Any]:
    """Pixels of a series in HU, [z, y, x]: int16, or int32 or float32 where int16 does not hold them.

    Raises:
        ScanError: truncated or unreadable pixels.
    """
    shape = (len(geometry.slices), *geometry.slices[0].shape)
    hu_ZYX: NDArray[Any] = np.empty(shape, np.int16)
    # Links with neutral names: the file names that the reader writes to its log cannot name a person.
    with tempfile.TemporaryDirectory(prefix="series-") as folder:
        for start in range(0, shape[0], SLICES_AT_A_TIME):
            slices = geometry.slices[start : start + SLICES_AT_A_TIME]
            files = []
            for k, header in enumerate(slices, start):
                link = Path(folder) / f"{k:05d}.dcm"
                link.symlink_to(header.file.absolute())
                files.append(str(link))
            decoded, _owner = _decode(files, slices)
            part_ZYX = decoded.reshape(-1, *shape[1:])
            if part_ZYX.dtype.kind == "f":
                hu_ZYX = hu_ZYX.astype(np.float32, copy=False)
            elif hu_ZYX.dtype == np.int16 and (part_ZYX.min() < -32768 or part_ZYX.max() > 32767):
                hu_ZYX = hu_ZYX.astype(np.int32)
            hu_ZYX[start : start + len(slices)] = part_ZYX
    return hu_ZYX


def _decode(files: Sequence[str], slices: Sequence[Slice]) -> tuple[NDArray[Any], sitk.Image | None]:
    """Pixels in HU; and the image that owns their memory, None where they own it themselves."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.SetNumberOfWorkUnits(1)  # a scan is one task, on one core
    if not all(
        s.whole_hu for s in slices
    ):  # the type of the first slice would cut off the fractions of the others
        reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = reader.Execute()
        return sitk.GetArrayViewFromImage(image), image
    except RuntimeError:
        pass
    arrays = []
    for file, header in zip(files, slices):  # GDCM refuses some compressed series that pydicom decodes
        try:
            with quiet_pydicom():
                data = pydicom.dcmread(file)
                slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
                arrays.append((data.pixel_array * slope + intercept).astype(np.float32))
        except Exception:  # pydicom and its decoders raise many kinds
            raise _undecodable(header) from None
    return np.stack(arrays), None


def _undecodable(header: Slice) -> ScanError:
    at = f"the slice at {header.position[2]:.1f} mm"
    if not header.compressed:  # uncompressed pixels can only be too short
        return ScanError(f"{at} is cut short", "Copy or export the series again", code="truncated")
    return ScanError(
        f"the pixels of {at} cannot be decoded",
        "Export the series again, without compression, or convert it to NIfTI (e.g. with dcm2niix)",
        code="unreadable",
    )
