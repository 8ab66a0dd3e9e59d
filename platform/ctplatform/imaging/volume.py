"""Reader of scans: any CT file or DICOM series as one volume in HU, mm and LPS, or a ScanError with the reason.

In the order of reading: `files` (format by suffix, a local copy), then `volume_file` (`nifti`, or `itk_file` for NRRD
and MetaImage), or `dicom_headers`, `dicom_uniformity`, `dicom_geometry` and `dicom_series`; last, for every format,
`hounsfield` (check and conversion to int16 HU) and the axes turned to LPS. docs/reference/inputs.md lists the accepted
input and every error code.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_geometry import series_geometry
from ctplatform.imaging.dicom_headers import index_folder
from ctplatform.imaging.dicom_series import choose_series, read_pixels
from ctplatform.imaging.files import VOLUME_SUFFIXES, local_copy, quiet_itk, volume_suffix
from ctplatform.imaging.hounsfield import to_hu
from ctplatform.imaging.volume_checks import MIN_SLICES
from ctplatform.imaging.volume_file import StoredVolume, read_volume_file

_SPACING_MM = (0.1, 20.0)


@dataclass(frozen=True)
class Volume:
    """A CT that was read and checked: the input of every later step.

    Attributes:
        image: 3-D, int16 HU, at least -1024; axes permuted and flipped to the nearest LPS, oblique directions kept.
        notes: what was unusual and what was done about it; they name neither path nor patient.
        source: format, kernel, slice_thickness_mm, manufacturer, kvp, exposure_mas, ctdi_vol_mgy, as far as the format
            has them; values from fixed lists or numbers.
        air_hu: room air before values below -1024 were set to it; NaN where there is too little.
    """

    image: sitk.Image
    notes: tuple[str, ...]
    source: dict[str, Any]
    air_hu: float = math.nan


def read_volume(path: str | Path, *, series_uid: str | None = None) -> Volume:
    """Read a scan.

    Args:
        path: NIfTI, NRRD or MetaImage file, a folder with DICOM files, or one DICOM file of the series; local, or
            an s3:// or gs:// URI, whose content is copied to a temporary folder.
        series_uid: SeriesInstanceUID, where a folder holds several series; without it `choose_series` picks one, and
            a note names the reasons against the others.

    Raises:
        ScanError: the scan cannot be used. Its text names neither path nor patient.
    """
    with contextlib.ExitStack() as scope:
        local = scope.enter_context(local_copy(str(path)))
        scope.enter_context(quiet_itk())
        if not local.exists():
            raise ScanError(
                "nothing exists at the path in the cohort table",
                "Correct the path column, or make the storage available on every machine",
                code="missing-path",
            )
        suffix = volume_suffix(local)
        if local.is_dir() or not suffix:
            stored = _read_dicom(local, series_uid)
        else:
            stored = read_volume_file(local)
    return _checked(stored)


def content_hash(volume: Volume) -> str:
    """SHA-256 over HU and geometry (to 1e-3 mm): equal for the same scan in any file format."""
    image = volume.image
    digest = hashlib.sha256()
    geometry = np.round([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()], 3) + 0.0
    digest.update(np.array(image.GetSize(), "<i4").tobytes() + geometry.astype("<f8").tobytes())
    hu_ZYX = sitk.GetArrayViewFromImage(image)
    digest.update(np.ascontiguousarray(hu_ZYX, "<i2").data)
    return digest.hexdigest()


def _read_dicom(path: Path, series_uid: str | None) -> StoredVolume:
    found = index_folder(path if path.is_dir() else path.parent)
    if not path.is_dir():
        series_uid = series_uid or next((s.uid for s in found for i in s.slices if i.file == path), "")
        if not series_uid:
            raise ScanError(
                "the file is of no known format",
                f"Give a DICOM series, or a file that ends in {', '.join(VOLUME_SUFFIXES)}",
                code="unknown-format",
            )
    if not found:
        raise ScanError(
            "the folder holds no DICOM images",
            "Give the folder that holds the files of the series itself, or the volume file",
            code="no-images",
        )
    notes: list[str] = []
    if series_uid:
        series = next((s for s in found if s.uid == series_uid), None)
        if series is None:
            raise ScanError(
                f"none of the {len(found)} series in the folder has the given series_uid",
                "Correct series_uid, or leave it empty",
                code="no-such-series",
            )
    elif len(found) == 1:
        series = found[0]
    else:
        series, rejected = choose_series(found)
        if series is None:
            reasons = "; ".join(sorted({reason for _, reason in rejected}))
            raise ScanError(
                f"none of the {len(found)} series in the folder can be used: {reasons}",
                "Give the folder of an axial CT series",
                code="no-usable-series",
            )
        reasons = "; ".join(sorted({reason for _, reason in rejected}))
        notes.append(f"{len(rejected)} other series in the folder passed over: {reasons}")
    geometry = series_geometry(series)
    hu_ZYX, padding = read_pixels(geometry)
    return StoredVolume(
        values_ZYX=hu_ZYX,
        spacing=geometry.spacing,
        origin=geometry.origin,
        direction=geometry.direction,
        notes=(*notes, *geometry.notes, *padding),
        source=series.source,
    )


def _checked(stored: StoredVolume) -> Volume:
    """What holds for every format: spacing and number of slices checked, values in HU, axes in LPS order."""
    if not all(_SPACING_MM[0] <= s <= _SPACING_MM[1] for s in stored.spacing):
        raise ScanError(
            f"the voxel spacing is {' x '.join(f'{s:.4g}' for s in stored.spacing)} mm",
            f"Give a scan with {_SPACING_MM[0]:g} to {_SPACING_MM[1]:g} mm; check the units of the header",
            code="bad-spacing",
        )
    if min(stored.values_ZYX.shape) < MIN_SLICES:
        raise ScanError(
            f"the volume has {min(stored.values_ZYX.shape)} slices along one axis; at least {MIN_SLICES} are needed",
            "Give the complete scan",
            code="too-few-slices",
        )
    hu_ZYX, air_hu, notes = to_hu(stored.values_ZYX)
    image = sitk.GetImageFromArray(hu_ZYX)
    image.SetSpacing(stored.spacing)
    image.SetOrigin(stored.origin)
    image.SetDirection(stored.direction)
    if sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()) != "LPS":
        image = sitk.DICOMOrient(image, "LPS")
    return Volume(image=image, notes=(*stored.notes, *notes), source=stored.source, air_hu=air_hu)
