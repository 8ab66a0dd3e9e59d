"""Label maps: volumes that hold a class for each voxel of a scan, on any grid in the same physical space."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.files import local_copy, quiet_itk, volume_suffix
from ctplatform.imaging.volume_file import read_volume_file


def read_label_map(path: str, values: Mapping[str, int]) -> sitk.Image:
    """Read a label map; its values become 0 (no class) and 1, 2, ... in the order of `values`.

    Args:
        path: NIfTI, NRRD or MetaImage; local, or an s3:// or gs:// URI.
        values: the value in the file of each class.

    Raises:
        ScanError: it cannot be read, or holds a value of no class. Its text names neither path nor patient.
    """
    with contextlib.ExitStack() as scope:
        local = scope.enter_context(local_copy(path))
        scope.enter_context(quiet_itk())
        if not local.is_file():
            raise ScanError(
                "there is no label map at the path in the cohort table",
                "Correct the column, or make the storage available on every machine",
                code="missing-label-map",
            )
        if not volume_suffix(local):
            raise ScanError(
                "the label map is of no known format", "Give it as NIfTI, NRRD or MetaImage", code="label-map"
            )
        try:
            stored = read_volume_file(local, least=1)
        except ScanError as error:
            raise ScanError(
                f"the label map cannot be used: {error.problem}", error.remedy, code="label-map"
            ) from None
    stored_ZYX = stored.values_ZYX
    found = np.unique(stored_ZYX)
    known = {float(value): number for number, value in enumerate(values.values(), 1)}
    unknown = [value for value in found if value != 0 and float(value) not in known]
    if unknown:
        classes = ", ".join(f"{name} {value}" for name, value in values.items())
        raise ScanError(
            f"the label map holds the value {unknown[0]:g}, which no class has (classes: {classes})",
            "Say under sweep.classes which value means what, or correct the map; 0 is no class",
            code="label-map",
        )
    number = np.array([known.get(float(value), 0) for value in found], np.uint8)
    labels = sitk.GetImageFromArray(number[np.searchsorted(found, stored_ZYX)])
    labels.SetSpacing(stored.spacing)
    labels.SetOrigin(stored.origin)
    labels.SetDirection(stored.direction)
    return labels
