"""NRRD and MetaImage files: what SimpleITK reads of them, and what it passes over of their headers.

SimpleITK takes any NRRD space other than RAS and LAS as LPS, and any length as mm; it ignores a linear function of
MetaImage intensities, and keeps a sheared direction as it is. Sources: the NRRD format (teem.sourceforge.net/nrrd),
the MetaIO documentation (itk.org).
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.data_files import (
    SYNONYMS,
    check_data_files,
    check_metaimage,
    check_orientation,
    data_file,
    data_files,
    form_of,
    header_fields,
)
from ctplatform.imaging.files import volume_suffix
from ctplatform.imaging.limits import unpacked_limit
from ctplatform.imaging.nrrd_bzip2 import as_raw, is_bzip2
from ctplatform.imaging.volume_checks import check_shape, decompose, incomplete, not_scalar, truncated

_SPACES = {
    "left-posterior-superior",
    "lps",
    "right-anterior-superior",
    "ras",
    "left-anterior-superior",
    "las",
}
MAX_RATIO = 1100
"""Bytes that one byte of packed data may stand for: deflate reaches 1032."""

MAX_LENGTH_ERROR = 0.01
"""Of direction cosines: headers hold rounded ones."""

_ENCODINGS = {"raw", "txt", "text", "ascii", "hex", "gz", "gzip"}
_UNITS_MM = {
    "": 1.0, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "um": 0.001, "µm": 0.001,
    "micron": 0.001, "microns": 0.001, "cm": 10.0, "m": 1000.0, "meter": 1000.0, "in": 25.4, "inch": 25.4,
}  # fmt: skip


_GRID_FIELDS = {
    "NRRD": (
        ("space directions", "spacings", "axis maxs", "axismaxs"),
        ("space origin", "axis mins", "axismins"),
    ),
    "MetaImage": (("ElementSpacing", "ElementSize"), SYNONYMS[1]),
}
"""Fields of which one gives the voxel sizes, and fields of which one gives the place of the first voxel."""


@dataclass(frozen=True)
class ItkHeader:
    """Grid and encoding of a NRRD or MetaImage file: size in voxels x, y, z; geometry in mm, LPS.

    Attributes:
        form: NRRD or MetaImage.
        bzip2: whether the voxels are packed by it, which SimpleITK cannot unpack.
        data_file: name of the separate data file, "LIST" or a pattern for several; empty where the voxels follow.
        slope, intercept: value = stored x slope + intercept.
        notes: what was unusual, for the ledger.
    """

    form: str
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    voxel_bytes: int
    bzip2: bool
    data_file: str
    slope: float
    intercept: float
    notes: tuple[str, ...]


def read_itk_header(path: Path, *, least: int = 2) -> ItkHeader:
    """Check the header of a NRRD or MetaImage file.

    Args:
        least: voxels along each axis.

    Raises:
        ScanError: unreadable, not-3d, four-d, not-scalar, bad-affine, bad-header, bad-space, bad-spacing, bad-units,
            too-large, truncated.
    """
    form = form_of(path)
    fields = header_fields(path, form)
    named = data_file(fields, form)
    if form == "MetaImage":
        check_metaimage(fields)
    check_data_files(path, named, form)
    _check_packed_size(path, fields, form)
    notes = _check_space(fields) if form == "NRRD" else check_orientation(fields)
    bzip2 = form == "NRRD" and is_bzip2(fields)
    if form == "NRRD" and not bzip2 and fields.get("encoding", "raw").lower() not in _ENCODINGS:
        raise ScanError(
            "the voxel data of the NRRD file is in an encoding that cannot be read",
            "Store it with the encoding gzip or raw",
            code="unreadable",
        )
    with as_raw(path) if bzip2 else _neutral(path, named) as link:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(link))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            raise ScanError(
                f"the content is no {form} image, in spite of the file's name",
                "Check what the file is; export the scan again",
                code="unreadable",
            ) from None
    if reader.GetNumberOfComponents() > 1:
        raise not_scalar()
    size = check_shape(tuple(reader.GetSize()), least=least)
    voxel_bytes = int(sitk.Image([1] * 3, reader.GetPixelID()).GetSizeOfPixelComponent())
    needed = math.prod(size) * voxel_bytes
    unpacked_limit(needed)
    if not bzip2:  # of which a byte may stand for a million
        _check_stored_size(path, fields, form, needed)
        notes += _bytes_behind(path, fields, form, needed)
    notes += _check_grid(fields, form)
    slope, intercept = 1.0, 0.0
    if form == "NRRD":
        units = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    else:
        slope = _number(fields, "ElementToIntensityFunctionSlope", 1.0)
        intercept = _number(fields, "ElementToIntensityFunctionOffset", 0.0)
        units = [fields.get("DistanceUnits", "")]
    factor = _factor(units)
    if factor != 1.0:
        notes.append(f"lengths are stored in units of {factor:g} mm; converted to mm")
    n = reader.GetDimension()
    direction_33 = np.array(reader.GetDirection()).reshape(n, n)[:3, :3]
    spacing = np.array(reader.GetSpacing()[:3]) * factor
    origin = np.array(reader.GetOrigin()[:3]) * factor
    affine_44 = np.eye(4)
    affine_44[:3, :3] = direction_33 * spacing
    _, cosines = decompose(affine_44)  # a check: SimpleITK keeps a sheared direction
    lengths = np.linalg.norm(direction_33, axis=0)
    if np.abs(lengths - 1).max() > MAX_LENGTH_ERROR:
        raise ScanError(
            "the direction cosines of the header are not of unit length, so the voxel sizes are not known",
            "Store the scan with cosines of unit length",
            code="bad-affine",
        )
    if np.abs(lengths - 1).max() > 1e-6:
        direction_33 = np.array(cosines).reshape(3, 3)
    return ItkHeader(
        form=form,
        size=size,
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(direction_33.ravel().tolist()),
        voxel_bytes=voxel_bytes,
        bzip2=bzip2,
        data_file=named,
        slope=slope,
        intercept=intercept,
        notes=tuple(notes),
    )


def read_itk_voxels(path: Path, header: ItkHeader) -> tuple[NDArray[Any], sitk.Image]:
    """Scaled voxel values, [z, y, x] of the file's own axes, and the image that owns their memory.

    Raises:
        ScanError: truncated, where the voxels or the separate data file are incomplete or missing; of
            `nrrd_bzip2.as_raw`.
    """
    needed = math.prod(header.size) * header.voxel_bytes
    with as_raw(path, needed=needed) if header.bzip2 else _neutral(path, header.data_file) as link:
        try:
            image = sitk.ReadImage(str(link))
        except RuntimeError:
            raise incomplete(header.data_file) from None
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise not_scalar()
    values_ZYX: NDArray[Any] = sitk.GetArrayViewFromImage(image)
    if header.slope != 1.0 or header.intercept != 0.0:
        values_ZYX = values_ZYX.astype(np.float32) * np.float32(header.slope) + np.float32(header.intercept)
    return values_ZYX, image


@contextlib.contextmanager
def _neutral(path: Path, named: str) -> Iterator[Path]:
    """The file under a name that identifies nobody, with the files beside it where the header names some."""
    suffix = volume_suffix(path)
    if named and path.name.endswith(suffix):
        yield path  # in place: a header finds its data beside itself
        return
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        link = Path(folder) / f"scan{suffix}"
        if named:  # SimpleITK recognises suffixes in lower case only
            for beside in path.absolute().parent.iterdir():
                (Path(folder) / beside.name).symlink_to(beside)
        link.symlink_to(path.absolute())
        yield link


def _check_packed_size(path: Path, fields: Mapping[str, str], form: str) -> None:
    """A MetaImage header says how much packed data follows, and ITK takes as much memory.

    Raises:
        ScanError: truncated, bad-header.
    """
    if form == "NRRD" or "CompressedDataSize" not in fields:
        return
    if _number(fields, "CompressedDataSize", 0.0) > path.stat().st_size and not data_file(fields, form):
        raise truncated()


def _check_stored_size(path: Path, fields: Mapping[str, str], form: str, needed: int) -> None:
    """Refuse what holds fewer voxels than the header says: ITK takes memory for all of them before it reads.

    Raises:
        ScanError: truncated.
    """
    named = data_file(fields, form)
    files = data_files(path, named, form) or [path]
    stored = sum(file.stat().st_size for file in files if file.exists())
    if needed > stored * (1 if _is_plain(fields, form) else MAX_RATIO):
        raise incomplete(named)


def _is_plain(fields: Mapping[str, str], form: str) -> bool:
    """Whether the voxels are stored as they are, a number of bytes each."""
    if form == "NRRD":
        return fields.get("encoding", "raw").lower() == "raw"
    return (
        fields.get("BinaryData", "").lower() == "true"
        and fields.get("CompressedData", "False").lower() == "false"
    )


def _bytes_behind(path: Path, fields: Mapping[str, str], form: str, needed: int) -> list[str]:
    """A note on a separate data file with more bytes than the voxels, where the header skips none."""
    named = data_file(fields, form)
    skips = ("HeaderSize", "byte skip", "byteskip", "line skip", "lineskip")
    if not named or not _is_plain(fields, form) or any(fields.get(name, "0") != "0" for name in skips):
        return []
    files = [file for file in data_files(path, named, form) if file.exists()]
    more = sum(file.stat().st_size for file in files) - needed
    return [f"{more} bytes lie behind the voxels in the data file; they were left out"] if more > 0 else []


def _check_grid(fields: Mapping[str, str], form: str) -> list[str]:
    """Notes on a missing origin.

    Raises:
        ScanError: bad-spacing, SimpleITK takes voxels without a size as 1 mm large.
    """
    sizes, origins = _GRID_FIELDS[form]
    numbers = [float(number) for number in re.findall(r"[-+.\deE]+|nan", fields.get("spacings", "").lower())]
    unknown = bool(numbers) and sum(map(math.isfinite, numbers)) < 3
    if unknown or not any(name in fields for name in sizes):
        raise ScanError(
            "the header gives no voxel sizes", "Store the scan with its voxel sizes", code="bad-spacing"
        )
    if not any(fields.get(name, "none").lower() != "none" for name in origins):
        return ["the header gives no origin; 0 was assumed"]
    return []


def _check_space(fields: Mapping[str, str]) -> list[str]:
    space = fields.get("space", "").lower().removesuffix("-time")
    if not space:
        return ["the header names no anatomical space; LPS was assumed"]
    if space not in _SPACES:
        raise ScanError(
            "the space of the NRRD header does not say where left and right are",
            "Store the scan in left-posterior-superior, or as NIfTI",
            code="bad-space",
        )
    return []


def _factor(units: list[str]) -> float:
    """Length of the unit in mm."""
    factors = {_UNITS_MM.get(unit.strip().lower()) for unit in units if unit.strip() not in ("???", "none")}
    factor = factors.pop() if factors else 1.0
    if factor is None or factors:
        raise ScanError(
            "the lengths of the header are in a unit that is not known, or in several",
            "Store the scan with lengths in mm",
            code="bad-units",
        )
    return factor


def _number(fields: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(fields.get(name, default))
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ScanError(f"{name} of the header is no number", "Export the scan again", code="bad-header")
    return value
