"""NIfTI files: the affine of a header (sform or qform), its units, and the voxels, complete or refused.

Source: NIfTI-1 and NIfTI-2 standards (nifti.nimh.nih.gov), nibabel's reading of them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.volume_checks import check_shape, not_scalar, truncated

_UNITS_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class NiftiHeader:
    """Grid and encoding of a NIfTI file: size in voxels x, y, z; geometry in mm, LPS.

    Attributes:
        offset: of the first voxel, bytes of the unpacked file.
        slope, intercept: value = stored x slope + intercept.
        notes: what was unusual, for the ledger.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    notes: tuple[str, ...]

    @property
    def end(self) -> int:
        """Offset of the end of the voxels, bytes of the unpacked file."""
        return self.offset + int(np.prod(self.size)) * self.dtype.itemsize


def read_header(path: Path) -> NiftiHeader:
    """Check the header of a .nii or .nii.gz file.

    The sform is used where its code is above 0, else the qform, else the voxel sizes alone.

    Raises:
        ScanError: unreadable, not-3d, four-d, not-scalar, bad-affine, orientation-conflict.
    """
    try:
        image = nib.load(path)
    except Exception:  # nibabel also passes on errors of zlib and struct
        raise _unreadable() from None
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image | nib.Nifti1Pair | nib.Nifti2Pair):
        raise _unreadable()
    header = image.header
    proxy: Any = image.dataobj  # holds offset and scaling, which nibabel clears in the header
    shape = check_shape(tuple(int(n) for n in image.shape))
    dtype = header.get_data_dtype()
    if dtype.fields is not None or dtype.kind == "c":
        raise not_scalar()
    affine, notes = _affine(header)
    notes += _units(header, affine)
    spacing, direction = decompose(affine)
    origin = tuple(float(v) for v in affine[:3, 3])
    return NiftiHeader(
        size=shape,
        spacing=spacing,
        origin=(origin[0], origin[1], origin[2]),
        direction=direction,
        dtype=dtype,
        offset=int(proxy.offset),
        slope=float(proxy.slope),
        intercept=float(proxy.inter),
        notes=tuple(notes),
    )


def read_voxels(path: Path, header: NiftiHeader) -> NDArray[Any]:
    """Scaled voxel values, [z, y, x] of the file's own axes; read-only where slope and intercept change nothing.

    Without ITK: its NIfTI reader turns NaN into 0 (blood, in HU), fills up a truncated file, reads `a.nii` instead of
    `a.nii.gz` where both exist, and writes file names into the log.

    Raises:
        ScanError: truncated.
    """
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        data = _unpack(data)
    if len(data) < header.end:
        raise truncated()
    count = int(np.prod(header.size))
    values_ZYX = np.frombuffer(data, header.dtype, count, header.offset).reshape(header.size[::-1])
    if header.slope != 1.0 or header.intercept != 0.0:
        return values_ZYX.astype(np.float32) * np.float32(header.slope) + np.float32(header.intercept)
    return values_ZYX


def _unpack(data: bytes) -> bytes:
    """Content of a gzip file of one or more members.

    Raises:
        ScanError: truncated, or a check sum does not match.
    """
    parts = []
    while data[:2] == b"\x1f\x8b":
        member = zlib.decompressobj(wbits=31)
        try:
            parts.append(member.decompress(data))
        except zlib.error:
            raise ScanError(
                "the packed voxel data is damaged", "Copy or export the file again", code="truncated"
            ) from None
        if not member.eof:
            raise truncated()
        data = member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _unreadable() -> ScanError:
    return ScanError(
        "the content is no NIfTI image, in spite of the file's name",
        "Check what the file is; export the scan again",
        code="unreadable",
    )


def decompose(affine_44: NDArray[np.float64]) -> tuple[tuple[float, float, float], tuple[float, ...]]:
    """Spacing in mm and direction cosines (row by row) of a voxel-to-mm matrix; small shear is rounded away.

    Raises:
        ScanError: bad-affine, where axes are missing or not perpendicular within about half a degree.
    """
    matrix = affine_44[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(affine_44).all() or spacing.min() <= 0:
        raise ScanError("the voxel-to-mm matrix is singular", "Export the scan again", code="bad-affine")
    u, _, vt = np.linalg.svd(matrix / spacing)
    direction = u @ vt
    if np.abs(direction - matrix / spacing).max() > 0.01:
        raise ScanError(
            "the voxel axes are not perpendicular (sheared: a tilted gantry, perhaps)",
            "Resample the scan to a rectangular grid",
            code="bad-affine",
        )
    return (float(spacing[0]), float(spacing[1]), float(spacing[2])), tuple(direction.ravel().tolist())


def _affine(header: nib.Nifti1Header) -> tuple[NDArray[np.float64], list[str]]:
    """The voxel-to-mm matrix to use, in LPS, and notes."""
    sform, s_code = header.get_sform(coded=True)
    qform, q_code = None, 0
    try:
        qform, q_code = header.get_qform(coded=True)
    except (ValueError, nib.spatialimages.HeaderDataError):  # the quaternion has no unit length
        if s_code <= 0:
            raise ScanError(
                "the qform of the header is invalid", "Export the scan again", code="bad-affine"
            ) from None
    notes: list[str] = []
    if s_code > 0:
        affine = sform
        if q_code > 0 and qform is not None:
            shape = np.array(header.get_data_shape()[:3]) - 1
            corners = np.array([[*(np.array(c) * shape), 1.0] for c in np.ndindex(2, 2, 2)])
            apart = float(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max())
            if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
                raise ScanError(
                    "sform and qform of the header disagree about left and right",
                    "Find out which is right and write both alike",
                    code="orientation-conflict",
                )
            if apart > 1.0:
                notes.append(f"sform and qform differ by up to {apart:.1f} mm; the sform was used")
    elif q_code > 0 and qform is not None:
        affine = qform
    else:
        affine = header.get_base_affine()
        notes.append(
            "the header gives no orientation; axes taken as left, posterior, superior with x reversed"
        )
    return _RAS_TO_LPS @ affine, notes


def _units(header: nib.Nifti1Header, affine: NDArray[np.float64]) -> list[str]:
    """Convert the matrix to mm, in place; returns notes."""
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = "unknown"
    factor = _UNITS_MM.get(unit, 1.0)
    if factor == 1.0:
        return []
    affine[:3] *= factor
    return [f"lengths are stored in {unit}; converted to mm"]
