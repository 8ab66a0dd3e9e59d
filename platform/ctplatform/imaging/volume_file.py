"""A volume of one file, scan or label map: NIfTI by our own reader, NRRD and MetaImage by SimpleITK.

One reader for both: a label map with the header of its scan lies where the scan lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.imaging.files import NIFTI_SUFFIXES, volume_suffix
from ctplatform.imaging.itk_file import read_itk_header, read_itk_voxels
from ctplatform.imaging.nifti import read_header, read_voxels


@dataclass(frozen=True)
class StoredVolume:
    """Content of a file before its check: scaled values, geometry in mm and LPS.

    Attributes:
        owner: the image whose memory `values_ZYX` is, kept alive with it.
    """

    values_ZYX: NDArray[Any]
    spacing: Sequence[float]
    origin: Sequence[float]
    direction: Sequence[float]
    notes: tuple[str, ...]
    source: dict[str, Any]
    owner: sitk.Image | None = None

    @property
    def writeable(self) -> bool:
        """Whether the values are int16 and may be overwritten."""
        return self.values_ZYX.dtype == np.int16 and bool(self.values_ZYX.flags.writeable)


def read_volume_file(path: Path, *, least: int = 2) -> StoredVolume:
    """Read a NIfTI, NRRD or MetaImage file.

    Args:
        path: its suffix says which.
        least: voxels along each axis.

    Raises:
        ScanError: of `nifti` and `itk_file`.
    """
    if volume_suffix(path) in NIFTI_SUFFIXES:
        form = "NIfTI"
        nifti = read_header(path, least=least)
        grid = (nifti.spacing, nifti.origin, nifti.direction, nifti.notes)
        values_ZYX, owner = read_voxels(path, nifti)
    else:
        itk = read_itk_header(path, least=least)
        form = itk.form
        grid = (itk.spacing, itk.origin, itk.direction, itk.notes)
        values_ZYX, owner = read_itk_voxels(path, itk)
    spacing, origin, direction, notes = grid
    return StoredVolume(
        values_ZYX=values_ZYX,
        spacing=spacing,
        origin=origin,
        direction=direction,
        notes=notes,
        source={"format": form, "kernel": "", "slice_thickness_mm": None, "manufacturer": ""},
        owner=owner,
    )
