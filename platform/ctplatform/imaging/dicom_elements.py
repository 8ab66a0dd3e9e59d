"""Values of the elements of a DICOM header, without an error whatever they hold.

Numbers and plain text are taken from the stored bytes: pydicom's own conversion, of thirty elements an image, lasts
longer than reading them from the file.
"""

from __future__ import annotations

import math
import os
from functools import cache
from typing import Any, BinaryIO, Literal

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

_TEXT = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")


def text(data: pydicom.Dataset, keyword: str) -> str:
    """A text element; empty if it is missing or invalid."""
    stored = _plain_text(data, keyword)
    if stored is None or "\\" in stored:
        value = _converted(data, keyword)
        return "" if value is None else str(value).strip()
    return stored.strip()


def words(data: pydicom.Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a text element of one or more."""
    stored = _plain_text(data, keyword)
    if stored is not None:
        return tuple(word.strip() for word in stored.split("\\")) if stored.strip() else ()
    value = _converted(data, keyword) or ()
    return tuple(str(word).strip() for word in ((value,) if isinstance(value, str) else value))


def numbers(data: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """The numbers of an element; empty if they are missing, of another count, or not finite."""
    try:
        stored = _plain_text(data, keyword)
        if stored is not None:
            values = tuple(float(v) for v in stored.split("\\"))
        else:
            value = data.get(keyword)
            values = tuple(float(v) for v in ([value] if count == 1 else value))
    except Exception:  # pydicom raises many kinds, at access, where a value is invalid
        return ()
    return values if len(values) == count and all(map(math.isfinite, values)) else ()


def whole_number(data: pydicom.Dataset, keyword: str, default: int) -> int:
    """A whole number; `default` if it is missing or blank.

    Raises:
        ValueError: the element holds anything else.
    """
    try:
        raw = data.get_item(_tag(keyword))
        if isinstance(raw, RawDataElement) and _representation(raw) == "US" and len(raw.value or b"") == 2:
            return int.from_bytes(raw.value or b"", "little" if raw.is_little_endian else "big")
        value = data.get(keyword)
        return default if value is None or value == "" else int(value)
    except Exception as error:
        raise ValueError(keyword) from error


def rescale(data: pydicom.Dataset) -> tuple[float, ...] | None:
    """Slope and intercept; None where both are absent, empty where they are no pair of numbers, or a lookup table."""
    present = [k for k in ("RescaleSlope", "RescaleIntercept") if k in data]
    if "ModalityLUTSequence" in data:
        return ()
    if not present:
        return None
    values = tuple(v for k in present for v in numbers(data, k, 1))
    return values if len(values) == 2 and values[0] != 0 else ()


def padding(data: pydicom.Dataset, *, signed: bool) -> tuple[int, ...]:
    """Stored values of padding, the lowest and the highest; empty without PixelPaddingValue."""
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        try:
            value = data.get(keyword)
        except Exception:  # pydicom raises many kinds, at access, where a value is invalid
            value = None
        if isinstance(value, bytes) and len(value) == 2:  # implicit VR leaves open whether it is US or SS
            value = int.from_bytes(value, "little", signed=signed)
        if isinstance(value, int):
            ends.append(
                value - 65536 if signed and value > 32767 else value + 65536 * (not signed and value < 0)
            )
        elif not ends:
            return ()
    return min(ends), max(ends)


def pixel_range(data: pydicom.Dataset, stream: BinaryIO) -> tuple[int, int]:
    """(bytes of PixelData in the file, where they start); the stream stands at the start of the element.

    The number is -1 if it is not given; the offset is -1 where no plain little-endian pixels follow.
    """
    implicit, little = data.original_encoding
    head = stream.read(8 if implicit else 12)
    order: Literal["little", "big"] = "little" if little or little is None else "big"
    tag = (int.from_bytes(head[0:2], order), int.from_bytes(head[2:4], order))
    if tag != (0x7FE0, 0x0010):
        return 0, -1
    length = int.from_bytes(head[-4:], order)
    offset = stream.tell()
    if length == 0xFFFFFFFF:
        return -1, -1
    left = os.fstat(stream.fileno()).st_size - offset
    return min(length, left), offset if order == "little" else -1


def rle_segments(stream: BinaryIO) -> int:
    """Segments that the first RLE fragment says it has; the stream stands at the start of PixelData.

    0 is no image (PS3.5 annex G has 1 to 15), and a decoder that divides by it takes the process with it.
    """
    stream.seek(12, os.SEEK_CUR)
    for part in ("offset table", "first fragment"):
        head = stream.read(8)
        if head[:4] != b"\xfe\xff\x00\xe0":
            return 0
        if part == "offset table":
            stream.seek(int.from_bytes(head[4:], "little"), os.SEEK_CUR)
    return int.from_bytes(stream.read(4), "little")


@cache
def _tag(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return Tag(tag)


def _representation(raw: RawDataElement) -> str:
    """Value representation, also where the file leaves it out."""
    return raw.VR or dictionary_VR(raw.tag)


def _plain_text(data: pydicom.Dataset, keyword: str) -> str | None:
    """Stored text without trailing padding; None if the element is missing, or its characters need a character set."""
    raw = data.get_item(_tag(keyword))
    if not isinstance(raw, RawDataElement) or _representation(raw) not in _TEXT:
        return None
    stored = raw.value or b""
    return stored.decode().rstrip("\0 ") if stored.isascii() and b"\x1b" not in stored else None


def _converted(data: pydicom.Dataset, keyword: str) -> Any:
    try:
        return data.get(keyword)
    except Exception:  # a value that its representation does not allow
        return None
