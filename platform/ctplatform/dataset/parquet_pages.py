"""A row group's patches straight from its Parquet pages: one range read, one decompression, no copies.

pyarrow appends patch by patch to a growing column, which costs more than decompressing fast zstd; and a parsed footer
is 150 KB, too much to keep for ten thousand scans where a few integers a block suffice. So the training feed decodes
the pages that `shards.encode` writes itself. Other pages (dictionary-encoded, other codecs, other page versions) are
decoded by pyarrow, from the same bytes. Everything but the feed reads the same files through pyarrow.

Source: github.com/apache/parquet-format, PageHeader in parquet.thrift; Thrift's compact protocol; "plain" encoding.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

_LENGTH = 4  # bytes before each value of a plain-encoded binary column
_DATA_PAGE, _PLAIN = 0, 0

Bytes: TypeAlias = "bytes | memoryview | pa.Buffer"

logger = logging.getLogger(__name__)


class PageError(ValueError):
    """The pages cannot be decoded, or are not of the kind that `shards.encode` writes."""


@dataclass(frozen=True)
class Extent:
    """The column chunk of a row group's patches in its file.

    Attributes:
        offset, size: bytes.
        values: patches in it.
        codec: of its pages, as pyarrow names it in lower case.
        nullable: whether definition levels come before the values of a page.
        row_group, column: its place in the file's footer.
        dictionary: whether its first page is a dictionary.
    """

    offset: int
    size: int
    values: int
    codec: str
    nullable: bool
    row_group: int
    column: int
    dictionary: bool = False

    @classmethod
    def of(cls, footer: pq.FileMetaData, row_group: int, column: str) -> Extent:
        """From a file's footer.

        Raises:
            PageError: the column is not binary.
        """
        index = footer.schema.names.index(column)
        chunk = footer.row_group(row_group).column(index)
        if chunk.physical_type != "BYTE_ARRAY":
            raise PageError(f"column {column} is {chunk.physical_type}, not binary")
        # Writers differ in whether they say where a dictionary starts; where it does, the data pages come after it.
        starts = [chunk.data_page_offset]
        if chunk.has_dictionary_page and chunk.dictionary_page_offset:
            starts.append(chunk.dictionary_page_offset)
        return cls(
            offset=min(starts),
            size=chunk.total_compressed_size,
            values=chunk.num_values,
            codec=chunk.compression.lower(),
            nullable=footer.schema.column(index).max_definition_level > 0,
            row_group=row_group,
            column=index,
            dictionary=chunk.has_dictionary_page,
        )


def read_rows(
    data: Bytes, extent: Extent, *, width: int, footer: Callable[[], pq.FileMetaData]
) -> NDArray[np.uint8]:
    """The values of a binary column whose values all have `width` bytes, whatever wrote them.

    Args:
        data: the bytes of the extent.
        extent: from the footer.
        width: bytes a value.
        footer: returns the file's footer; called only for pages that `plain_rows` does not decode.

    Returns:
        uint8 [values, width]; only the bytes of a value are contiguous.

    Raises:
        PageError: damaged pages, or values of another width or null.
    """
    try:
        return plain_rows(data, extent, width=width)
    except PageError as unfit:
        rows = _arrow_rows(data, extent, width, footer())
        _warn_once(str(unfit))
        return rows


@cache
def _warn_once(reason: str) -> None:
    logger.warning("patches are decoded by pyarrow, which takes longer: %s", reason)


def _arrow_rows(data: Bytes, extent: Extent, width: int, footer: pq.FileMetaData) -> NDArray[np.uint8]:
    try:
        file = pq.ParquetFile(pa.PythonFile(_Chunk(data, extent.offset), mode="r"), metadata=footer)
        column = file.read_row_group(extent.row_group, columns=[footer.schema.names[extent.column]]).column(0)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        values = column.cast(pa.large_binary()).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise PageError(f"pages that pyarrow does not decode either: {error}") from error
    _, ends, content = values.buffers()
    ends = np.frombuffer(ends, np.int64)[values.offset : values.offset + len(values) + 1]
    if values.null_count or (np.diff(ends) != width).any():
        raise PageError(f"{len(values)} values, where each should have {width} bytes and none be null")
    return np.frombuffer(content, np.uint8)[ends[0] : ends[-1]].reshape(-1, width)


class _Chunk(io.RawIOBase):
    """The bytes of one column chunk at their place in the file; nothing else of it can be read."""

    def __init__(self, data: Bytes, offset: int) -> None:
        super().__init__()
        self._data, self._offset, self._at = memoryview(data), offset, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._offset + len(self._data)}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at < self._offset:
            raise OSError(f"byte {self._at} lies before the column chunk")
        part = self._data[self._at - self._offset :][: len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def plain_rows(data: Bytes, extent: Extent, *, width: int) -> NDArray[np.uint8]:
    """The values of a column chunk as `shards.encode` writes it: uint8 [values, width], not contiguous.

    Raises:
        PageError: other pages than plain-encoded ones of values of that width without nulls, zstd or uncompressed.
    """
    if extent.dictionary:
        raise PageError("a column that is dictionary-encoded")
    if extent.codec not in ("zstd", "uncompressed"):
        raise PageError(f"pages that are compressed with {extent.codec}, not with zstd")
    view, parts, found = memoryview(data), [], 0
    while found < extent.values:
        header, body = _header(view)
        if header[1] != _DATA_PAGE:
            raise PageError(f"a page of type {header[1]}, not a data page")
        count, encoding = header[5][1], header[5][2]
        if encoding != _PLAIN:
            raise PageError(f"a page of encoding {encoding}, not plain")
        packed = view[body : body + header[3]]
        try:
            plain = packed if extent.codec == "uncompressed" else _zstd().decompress(packed, header[2])
        except OSError as error:
            raise PageError("a page that cannot be decompressed") from error
        page = np.frombuffer(plain, np.uint8)
        if extent.nullable:  # definition levels come first; a missing value shows in the size below
            page = page[4 + int.from_bytes(page[:4].tobytes(), "little") :]
        if page.size != count * (_LENGTH + width):
            raise PageError(f"{count} values in {page.size} bytes, where each should have {width}")
        page = page.reshape(count, _LENGTH + width)
        if (np.ascontiguousarray(page[:, :_LENGTH]).view("<u4") != width).any():
            raise PageError(f"values that have not {width} bytes each")
        parts.append(page[:, _LENGTH:])
        found += count
        view = view[body + header[3] :]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@cache
def _zstd() -> pa.Codec:
    return pa.Codec("zstd")


def _header(view: memoryview) -> tuple[dict[int, Any], int]:
    """A page's header as {field number: value}, and where the page's body starts."""
    try:
        return _struct(view, 0)
    except (IndexError, KeyError) as error:
        raise PageError("the page header cannot be read") from error


def _struct(view: memoryview, at: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    number = 0
    while view[at]:
        step, kind = view[at] >> 4, view[at] & 15
        at += 1
        if step:
            number += step
        else:
            number, at = _integer(view, at)
        fields[number], at = _value(view, at, kind)
    return fields, at + 1


def _value(view: memoryview, at: int, kind: int) -> tuple[object, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind in (4, 5, 6):
        return _integer(view, at)
    if kind == 8:
        size, at = _varint(view, at)
        return bytes(view[at : at + size]), at + size
    if kind == 12:
        return _struct(view, at)
    raise KeyError(kind)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _integer(view: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(view, at)
    return (value >> 1) ^ -(value & 1), at
