"""NIfTI files: the affine of a header (sform or qform), its units, and the voxels, complete or refused.

Source: NIfTI-1 and NIfTI-2 standards (nifti.nimh.nih.gov), nibabel's reading of them.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from isal import isal_zlib
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.image_buffer import empty_image
from ctplatform.imaging.limits import check_regular, unpacked_limit, unpacks_to_more
from ctplatform.imaging.volume_checks import check_shape, decompose, not_scalar, truncated

SIZE_TOLERANCE = 0.01
"""Relative difference of the voxel sizes of sform and pixdim: 3 mm over a chest."""

PIECE_BYTES = 1 << 18
"""Of a file at a time."""

_UNITS_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_PACKED = b"\x1f\x8b"
_START_BYTES = 4096
MAX_OFFSET = 64 << 20
"""Of the first voxel: what lies before it are extensions."""
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class NiftiHeader:
    """Grid and encoding of a NIfTI file: size in voxels x, y, z; geometry in mm, LPS.

    Attributes:
        offset: of the first voxel, bytes of the unpacked file.
        offset_missing: the header gives 0, so the voxels follow it at once.
        slope, intercept: value = stored x slope + intercept.
        notes: what was unusual, for the ledger.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    dtype: np.dtype[Any]
    offset: int
    offset_missing: bool
    slope: float
    intercept: float
    notes: tuple[str, ...]

    @property
    def end(self) -> int:
        """Offset of the end of the voxels, bytes of the unpacked file."""
        return self.offset + int(np.prod(self.size)) * self.dtype.itemsize


def read_header(path: Path, *, least: int = 2) -> NiftiHeader:
    """Check the header of a .nii or .nii.gz file, packed or not, whatever its suffix says.

    The sform is used where its code is above 0, else the qform, else the voxel sizes alone.

    Args:
        least: voxels along each axis.

    Raises:
        ScanError: unreadable, not-3d, four-d, not-scalar, bad-affine, bad-header, orientation-conflict,
            spacing-conflict.
    """
    check_regular(path)
    try:
        _check_start(path)
        with _suffix_of_content(path) as link:
            image = nib.load(link)
            _keep_codes(image.header, link)
    except ScanError:
        raise
    except Exception:  # nibabel also passes on errors of zlib and struct
        raise _unreadable() from None
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image | nib.Nifti1Pair | nib.Nifti2Pair):
        raise _unreadable()
    header = image.header
    proxy: Any = image.dataobj  # holds offset and scaling, which nibabel clears in the header
    shape = check_shape(tuple(int(n) for n in image.shape), least=least)
    dtype = header.get_data_dtype()
    if dtype.fields is not None or dtype.kind == "c":
        raise not_scalar()
    affine, notes = _affine(header)
    notes += _check_sizes(header, affine)
    notes += _units(header, affine)
    offset, offset_notes = _offset(header, int(proxy.offset))
    notes += offset_notes
    spacing, direction = decompose(affine)
    origin = tuple(float(v) for v in affine[:3, 3])
    return NiftiHeader(
        size=shape,
        spacing=spacing,
        origin=(origin[0], origin[1], origin[2]),
        direction=direction,
        dtype=dtype,
        offset=offset,
        offset_missing=int(proxy.offset) == 0,
        slope=float(proxy.slope),
        intercept=float(proxy.inter),
        notes=tuple(notes),
    )


def read_voxels(path: Path, header: NiftiHeader) -> tuple[NDArray[Any], sitk.Image | None]:
    """Scaled voxel values, [z, y, x] of the file's own axes; and the image whose memory they are, where they are int16.

    Without ITK: its NIfTI reader turns NaN into 0 (blood, in HU), fills up a truncated file, reads `a.nii` instead of
    `a.nii.gz` where both exist, and writes file names into the log.

    Raises:
        ScanError: truncated, bad-header.
    """
    check_regular(path)
    shape_ZYX, plain = header.size[::-1], header.slope == 1.0 and header.intercept == 0.0
    owner: sitk.Image | None = None
    values_ZYX: NDArray[Any]
    if plain and header.dtype == np.dtype(np.int16):
        owner, values_ZYX = empty_image(shape_ZYX)
    else:
        values_ZYX = np.empty(shape_ZYX, header.dtype)
    start = _fill(
        values_ZYX.reshape(-1).view(np.uint8), _content(path, unpacked_limit(header.end)), skip=header.offset
    )
    if header.offset_missing and any(start[-4:]):
        raise ScanError(
            "the header gives no voxel offset, and extensions follow it",
            "Export the scan again",
            code="bad-header",
        )
    if not plain:
        values_ZYX = values_ZYX.astype(np.float32) * np.float32(header.slope) + np.float32(header.intercept)
    return values_ZYX, owner


def _fill(bytes_N: NDArray[np.uint8], pieces: Iterator[bytes], *, skip: int) -> bytes:
    """Fill an array with what follows the first `skip` bytes, which are returned; all pieces are taken.

    Raises:
        ScanError: truncated.
    """
    start, at = b"", 0
    for piece in pieces:
        missing = skip - len(start)
        start += piece[:missing] if missing else b""
        content = np.frombuffer(piece, np.uint8)[missing : missing + len(bytes_N) - at]
        bytes_N[at : at + len(content)] = content
        at += len(content)
    if at < len(bytes_N):
        raise truncated()
    return start


def _content(path: Path, most: int) -> Iterator[bytes]:
    """The content of a file piece by piece, unpacked where it is packed: a gzip file of one or more members.

    Raises:
        ScanError: truncated, or a check sum does not match; too-large, where it has more.
    """
    left = most
    with path.open("rb") as stream:
        data = stream.read(PIECE_BYTES)
        if data[:2] != _PACKED:
            while data:
                yield data
                data = stream.read(PIECE_BYTES)
            return
        while data[:2] == _PACKED:
            member = isal_zlib.decompressobj(wbits=31)
            while not member.eof:
                if not data:
                    raise truncated()
                try:
                    part = member.decompress(data, left + 1)
                except isal_zlib.error:  # type: ignore[misc]
                    raise ScanError(
                        "the packed voxel data is damaged", "Copy or export the file again", code="truncated"
                    ) from None
                left -= len(part)
                if left < 0:
                    raise unpacks_to_more()
                yield part
                data = member.unused_data if member.eof else stream.read(PIECE_BYTES)
            if len(data) < len(_PACKED):
                data += stream.read(PIECE_BYTES)


def _check_start(path: Path) -> None:
    """Refuse a header whose extensions would be read into memory and are larger than any.

    Raises:
        ScanError: bad-header.
    """
    with path.open("rb") as stream:
        start = stream.read(_START_BYTES)
    if start[:2] == _PACKED:
        start = isal_zlib.decompressobj(wbits=31).decompress(start, _START_BYTES)
    for order in ("<", ">"):
        for size, place, kind in ((348, 108, "f"), (540, 168, "q")):
            if len(start) < place + 8 or struct.unpack_from(f"{order}i", start)[0] != size:
                continue
            offset = struct.unpack_from(f"{order}{kind}", start, place)[0]
            if not 0 <= offset <= MAX_OFFSET:
                raise ScanError(
                    f"the header gives {offset:g} as the place of the first voxel",
                    "Export the scan again",
                    code="bad-header",
                )


def _keep_codes(header: Any, path: Path) -> None:
    """Count a qform and a sform of a code that the standard does not name, as any above 0, where nibabel drops them."""
    with nib.openers.ImageOpener(str(path)) as stream:
        stored = type(header).from_fileobj(stream, check=False)
    for name in ("qform_code", "sform_code"):
        if int(stored[name]) > 0 == int(header[name]):
            header[name] = 1


def _unreadable() -> ScanError:
    return ScanError(
        "the content is no NIfTI image, in spite of the file's name",
        "Check what the file is; export the scan again",
        code="unreadable",
    )


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
    if s_code > 0 and q_code > 0 and not _usable(sform):
        notes.append("the sform of the header is invalid; the qform was used")
        s_code = 0
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
            "the header gives no orientation; the axes were taken to run to the left, front and head"
        )
    return _RAS_TO_LPS @ affine, notes


def _usable(affine_44: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(affine_44).all()) and abs(float(np.linalg.det(affine_44[:3, :3]))) > 1e-12


def _check_sizes(header: nib.Nifti1Header, affine: NDArray[np.float64]) -> list[str]:
    """Compare the voxel sizes of the matrix with those of pixdim; returns notes.

    Raises:
        ScanError: spacing-conflict. Programs that read one or the other see scans of two sizes.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    stored = np.abs(np.array(header["pixdim"][1:4], float))
    if not np.isfinite(sizes).all() or np.allclose(sizes, stored, rtol=SIZE_TOLERANCE, atol=0):
        return []
    if np.isin(stored, (0.0, 1.0)).all():
        return ["pixdim of the header is not set; the voxel sizes of the sform were used"]
    raise ScanError(
        f"the voxels are {_by(sizes)} by the sform of the header and {_by(stored)} by its pixdim",
        "Find out which is right and write both alike",
        code="spacing-conflict",
    )


def _by(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _offset(header: nib.Nifti1Header, stored: int) -> tuple[int, list[str]]:
    """Byte of the first voxel, and notes: in one file, the header and the extension flag come before it.

    nibabel refuses any other offset inside of the header.
    """
    if stored:
        return stored, []
    least = int(header["sizeof_hdr"]) + 4
    return least, [f"the header gives no voxel offset; voxels were read from byte {least}"]


@contextlib.contextmanager
def _suffix_of_content(path: Path) -> Iterator[Path]:
    """The file under the suffix that its content has: .nii.gz where it is packed, else .nii."""
    with path.open("rb") as stream:
        suffix = ".nii.gz" if stream.read(2) == _PACKED else ".nii"
    if path.name.lower().endswith(suffix):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        link = Path(folder) / f"scan{suffix}"
        link.symlink_to(path.absolute())
        yield link


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
