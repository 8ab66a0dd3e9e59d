"""A row group's patches straight from its Parquet pages: one range read, one decompression, nothing copied between.

pyarrow appends patch by patch to a growing column, which costs more than decompressing fast zstd does; and a parsed
footer is 150 KB, too much to keep for ten thousand scans where two integers a block say it all. So the training feed
reads the pages that `shards.encode` writes by itself. Everybody else reads the same files through pyarrow.

Source: github.com/apache/parquet-format, PageHeader in parquet.thrift; Thrift's compact protocol; "plain" encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_LENGTH = 4  # bytes before each value of a plain-encoded binary column
_DATA_PAGE, _PLAIN = 0, 0


class PageError(ValueError):
    """The pages are not of the kind that `shards.encode` writes."""


@dataclass(frozen=True)
class Extent:
    """Where a row group's patches lie in their file: bytes; `values` patches in them."""

    offset: int
    size: int
    values: int
    codec: str
    nullable: bool

    @classmethod
    def of(cls, footer: pq.FileMetaData, row_group: int, column: str) -> Extent:
        """From a file's footer."""
        index = footer.schema.names.index(column)
        chunk = footer.row_group(row_group).column(index)
        if chunk.has_dictionary_page or chunk.physical_type != "BYTE_ARRAY":
            raise PageError(f"column {column} is {chunk.physical_type}, or dictionary-encoded")
        if chunk.compression not in ("ZSTD", "UNCOMPRESSED"):
            raise PageError(f"column {column} is packed with {chunk.compression}, not with zstd")
        return cls(
            offset=chunk.data_page_offset,
            size=chunk.total_compressed_size,
            values=chunk.num_values,
            codec=chunk.compression.lower(),
            nullable=footer.schema.column(index).max_definition_level > 0,
        )


def rows(data: bytes | memoryview | pa.Buffer, extent: Extent, *, width: int) -> np.ndarray:
    """The values of a binary column whose values all have `width` bytes: uint8 [values, width], not contiguous.

    Raises:
        PageError: other pages than plain-encoded ones of that width without nulls.
    """
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


def _header(view: memoryview) -> tuple[dict, int]:
    """A page's header as {field number: value}, and where the page's body starts."""
    try:
        return _struct(view, 0)
    except (IndexError, KeyError) as error:
        raise PageError("the page header cannot be read") from error


def _struct(view: memoryview, at: int) -> tuple[dict, int]:
    fields: dict[int, object] = {}
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
