"""Reader of scans: any CT file or DICOM series as one volume in HU, mm and LPS, or a ScanError with the reason.

In the order of reading: `files` (format by suffix, a local copy), then `volume_file` (`nifti`, or `itk_file` for NRRD
and MetaImage), or `dicom_study`, by way of `dicom_headers`, `dicom_uniformity`, `dicom_geometry` and `dicom_series`
(`dicom_choice` picks one of several series); last, for every format, `hounsfield` (check and conversion to int16 HU)
and the axes turned to LPS.
docs/reference/inputs.md lists the accepted input and every error code.
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
from ctplatform.imaging.dicom_study import dicom_files, read_dicom, series_of
from ctplatform.imaging.files import folders_of, is_archive, local_copy, quiet_itk, unpacked, volume_suffix
from ctplatform.imaging.hounsfield import to_hu
from ctplatform.imaging.image_buffer import empty_image
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
        path: NIfTI, NRRD or MetaImage file, a folder with DICOM files, one DICOM file of the series, a DICOMDIR, a
            zipped study, or the folders of one series with `FOLDER_SEPARATOR` between them; local, or s3:// or gs://
            URIs, whose content is copied to a temporary folder.
        series_uid: SeriesInstanceUID, where a folder holds several series; without it `choose_series` picks one, and
            a note names the reasons against the others.

    Raises:
        ScanError: the scan cannot be used. Its text names neither path nor patient.
    """
    with contextlib.ExitStack() as scope:
        places = [scope.enter_context(local_copy(place)) for place in folders_of(str(path))]
        scope.enter_context(quiet_itk())
        if not all(place.exists() for place in places):
            raise ScanError(
                "nothing exists at the path in the cohort table",
                "Correct the path column, or make the storage available on every machine",
                code="missing-path",
            )
        local = places[0]
        if is_archive(local) and local.is_file():
            inside = scope.enter_context(unpacked(local))
            volumes = [file for file in inside if volume_suffix(file)]
            if len(volumes) == len(inside) == 1:
                return _checked(read_volume_file(volumes[0]))
            return _checked(read_dicom(inside, series_uid))
        if local.is_dir() or not volume_suffix(local):
            return _checked(read_dicom(dicom_files(places), series_uid or series_of(local)))
        return _checked(read_volume_file(local))


def content_hash(volume: Volume) -> str:
    """SHA-256 over HU and geometry (to 1e-3 mm): equal for the same scan in any file format."""
    image = volume.image
    digest = hashlib.sha256()
    geometry = np.round([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()], 3) + 0.0
    digest.update(np.array(image.GetSize(), "<i4").tobytes() + geometry.astype("<f8").tobytes())
    hu_ZYX = sitk.GetArrayViewFromImage(image)
    digest.update(np.ascontiguousarray(hu_ZYX, "<i2").data)
    return digest.hexdigest()


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
    if stored.owner is not None and stored.writeable:
        image, hu_ZYX = stored.owner, stored.values_ZYX
    else:
        image, hu_ZYX = empty_image(stored.values_ZYX.shape)
    air_hu, notes = to_hu(stored.values_ZYX, hu_ZYX)
    image.SetSpacing(stored.spacing)
    image.SetOrigin(stored.origin)
    image.SetDirection(stored.direction)
    if sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()) != "LPS":
        image = sitk.DICOMOrient(image, "LPS")
    return Volume(image=image, notes=(*stored.notes, *notes), source=stored.source, air_hu=air_hu)
