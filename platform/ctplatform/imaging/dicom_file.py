"""DICOM files as pydicom reads them, those of the deflated transfer syntax (PS3.5 A.5) no further than a limit.

pydicom unpacks the data set of such a file at once, however large it becomes. The files here unpack it piece by piece
instead: the header up to `HEADER_BYTES`, and pixels up to the number that the header says.
"""

from __future__ import annotations

import contextlib
import io
import zlib
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset

from ctplatform.imaging.dicom_elements import whole_number
from ctplatform.imaging.limits import unpacked_limit, unpacks_to_more

HEADER_BYTES = 32 << 20
"""Of the elements before the pixels of a deflated file; the functional groups of 5,000 frames take half of it."""

_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_SIZES = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated")
_SIZE_TAGS: list[Any] = [tag for keyword in _SIZES if (tag := tag_for_keyword(keyword)) is not None]


class DicomFile(io.BufferedReader):
    """An open DICOM file for `pydicom.dcmread`.

    A read without a size is that of a deflated data set: it returns one that unpacks to the header, or to header and
    pixels, in place of the file's own.

    Args:
        path: of a regular file.
        header_only: leave out what lies behind `HEADER_BYTES`, for a reader that stops before the pixels.
    """

    def __init__(self, path: str | Path, *, header_only: bool = False) -> None:
        super().__init__(io.FileIO(path))
        self._header_only = header_only

    def read(self, size: int | None = -1) -> bytes:
        """Some bytes; without a size, the deflated data set up to the limit.

        Raises:
            ScanError: too-large.
        """
        if size is not None and size >= 0:
            return super().read(size)
        packed = super().read()
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        start = inflater.decompress(packed, HEADER_BYTES)
        if not self._header_only:
            start += _pixels(start, inflater)
        again = zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)
        return again.compress(start) + again.flush()


def read_file(path: str | Path) -> pydicom.Dataset:
    """All elements of a DICOM file, pixels included.

    Raises:
        ScanError: too-large, where it unpacks to more than its header says or than `prepare.max_bytes_unpacked`.
        Exception: of many kinds, where it cannot be parsed.
    """
    with DicomFile(path) as stream:
        return pydicom.dcmread(stream, force=True)


def _pixels(start: bytes, inflater: Any) -> bytes:
    """What follows the unpacked start of a data set, as far as the header in it says."""
    stream = io.BytesIO(start)
    header = pydicom.Dataset()
    with contextlib.suppress(EOFError):  # the start ends within an element
        header = read_dataset(
            stream, False, True, stop_when=lambda tag, *_: tag in _PIXELS, specific_tags=_SIZE_TAGS
        )
    # Skipping an element moves behind its claimed length, whether or not the start holds it.
    needed = min(stream.tell(), len(start)) + 12 + _pixel_bytes(header)
    room = unpacked_limit(needed) - len(start)
    rest = inflater.decompress(inflater.unconsumed_tail, max(0, room) + 1)
    if len(rest) > room:
        raise unpacks_to_more()
    return bytes(rest)


def _pixel_bytes(header: pydicom.Dataset) -> int:
    """Bytes of uncompressed pixels; 0 where the header does not say it."""
    if "Rows" not in header:
        return 0
    rows, columns, samples, frames, bits = (
        whole_number(header, keyword, default) for keyword, default in zip(_SIZES, (0, 0, 1, 1, 16))
    )
    return -(-rows * columns * samples * max(frames, 1) * bits // 8)
