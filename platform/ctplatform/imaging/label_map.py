"""Label maps: volumes that hold a class for each voxel of a scan, on any grid in the same physical space."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_labels import StoredLabels, read_dicom_labels
from ctplatform.imaging.files import local_copy, quiet_itk, volume_suffix
from ctplatform.imaging.volume_file import StoredVolume, read_volume_file


def read_labels(path: str) -> StoredLabels:
    """Read labels as they are stored: NIfTI, NRRD, MetaImage, DICOM SEG or RTSTRUCT; local, or an object-store URI.

    Raises:
        ScanError: missing-label-map, or label-map: it cannot be read. Its text names neither path nor patient.
    """
    with contextlib.ExitStack() as scope:
        local = scope.enter_context(local_copy(path))
        scope.enter_context(quiet_itk())
        if local.is_dir():
            files = [p for p in local.iterdir() if p.is_file() and not p.name.startswith(".")]
            local = files[0] if len(files) == 1 else local
        if not local.is_file():
            raise ScanError(
                "there is no label map at the path in the cohort table",
                "Correct the column, or make the storage available on every machine",
                code="missing-label-map",
            )
        if not volume_suffix(local):
            return read_dicom_labels(local)
        try:
            return StoredLabels(read_volume_file(local, least=1))
        except ScanError as error:
            raise ScanError(
                f"the label map cannot be used: {error.problem}", error.remedy, code="label-map"
            ) from None


def read_label_map(path: str, values: Mapping[str, int]) -> sitk.Image:
    """Read a label map; its values become 0 (no class) and 1, 2, ... in the order of `values`.

    Args:
        path: NIfTI, NRRD, MetaImage, DICOM SEG or RTSTRUCT; local, or an s3:// or gs:// URI.
        values: the value in the file of each class. A segment or ROI with the name of a class is of that class, and
            its number counts where no name fits.

    Raises:
        ScanError: it cannot be read, or holds a value of no class. Its text names neither path nor patient.
    """
    labels = read_labels(path)
    stored_ZYX = labels.volume.values_ZYX
    found = np.unique(stored_ZYX)
    known = {float(value): number for number, value in enumerate(values.values(), 1)}
    by_name = {plain_name(name): number for number, name in enumerate(values, 1)}
    named = {value: by_name[plain_name(n)] for value, n in labels.names.items() if plain_name(n) in by_name}
    if named:
        known = {float(value): number for value, number in named.items()}
    unknown = [value for value in found if value != 0 and float(value) not in known]
    if unknown:
        classes = ", ".join(f"{name} {value}" for name, value in values.items())
        raise ScanError(
            f"the label map holds the value {unknown[0]:g}, which no class has (classes: {classes})",
            "Say under sweep.classes which value means what, or correct the map; 0 is no class",
            code="label-map",
        )
    number = np.array([known.get(float(value), 0) for value in found], np.uint8)
    return image_of(number[np.searchsorted(found, stored_ZYX)], labels.volume)


def image_of(values_ZYX: NDArray[Any], volume: StoredVolume) -> sitk.Image:
    """Values on the grid of a stored volume."""
    image = sitk.GetImageFromArray(values_ZYX)
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image


def given_path(value: Any) -> str:
    """A path in a cell of the scan table; empty where the cell is."""
    return value.strip() if isinstance(value, str) else ""


def plain_name(name: str) -> str:
    """A class or structure name without case, blanks and punctuation."""
    return "".join(sign for sign in name.lower() if sign.isalnum())
