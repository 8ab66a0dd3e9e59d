"""Patches read from the pages themselves are those that pyarrow, DuckDB and polars wrote."""

from __future__ import annotations

import io
import logging

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctplatform.dataset import parquet_pages

WIDTH = 512


def written(values: np.ndarray, **options) -> tuple[bytes, pq.FileMetaData]:
    """Rows of bytes as a file with row groups of 7 rows."""
    sink = pa.BufferOutputStream()
    column = pa.array([row.tobytes() for row in values], pa.binary())
    table = pa.table({"first": np.arange(len(values)), "patch": column})
    pq.write_table(table, sink, **{"row_group_size": 7, "use_dictionary": False, **options})
    data = sink.getvalue().to_pybytes()
    return data, pq.read_metadata(pa.BufferReader(data))


def read(data: bytes, footer: pq.FileMetaData, group: int, *, width: int = WIDTH) -> np.ndarray:
    extent = parquet_pages.Extent.of(footer, group, "patch")
    return parquet_pages.plain_rows(data[extent.offset : extent.offset + extent.size], extent, width=width)


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(0, 40, (20, WIDTH)).astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd", "compression_level": -1},
        {"compression": "zstd", "compression_level": 3},
        {"compression": "none"},
        {"compression": "zstd", "data_page_size": 600, "write_batch_size": 1},  # several pages a row group
    ],
)
def test_every_row_of_every_group(values, options):
    data, footer = written(values, **options)
    got = [read(data, footer, group) for group in range(footer.num_row_groups)]
    assert [len(part) for part in got] == [7, 7, 6]
    np.testing.assert_array_equal(np.concatenate(got), values)


def test_several_pages_are_really_several(values):
    one, _ = written(values, compression="none")
    many, _ = written(values, compression="none", data_page_size=600, write_batch_size=1)
    assert len(many) > len(one)


def test_a_column_without_nulls_in_its_schema(values):
    sink = pa.BufferOutputStream()
    schema = pa.schema([pa.field("patch", pa.binary(), nullable=False)])
    pq.write_table(
        pa.table([pa.array([row.tobytes() for row in values])], schema=schema),
        sink,
        use_dictionary=False,
        compression="zstd",
    )
    data = sink.getvalue().to_pybytes()
    np.testing.assert_array_equal(read(data, pq.read_metadata(pa.BufferReader(data)), 0), values)


def test_the_plain_decoder_refuses_other_pages(values):
    data, footer = written(values, compression="zstd")
    with pytest.raises(parquet_pages.PageError, match="where each should have"):
        read(data, footer, 0, width=WIDTH // 2)
    data, footer = written(values, use_dictionary=True)
    with pytest.raises(parquet_pages.PageError, match="dictionary"):
        read(data, footer, 0)
    data, footer = written(values, compression="snappy")
    with pytest.raises(parquet_pages.PageError, match="zstd"):
        read(data, footer, 0)
    data, footer = written(values, data_page_version="2.0", compression="none")
    with pytest.raises(parquet_pages.PageError, match="page of type 3"):
        read(data, footer, 0)


def test_values_of_other_lengths_that_add_up_are_noticed(values):
    sink = pa.BufferOutputStream()
    lengths = pa.array([b"x" * (WIDTH - 1), b"x" * (WIDTH + 1)], pa.binary())
    pq.write_table(pa.table({"patch": lengths}), sink, use_dictionary=False, compression="zstd")
    data = sink.getvalue().to_pybytes()
    with pytest.raises(parquet_pages.PageError, match="not"):
        read(data, pq.read_metadata(pa.BufferReader(data)), 0)


def test_bytes_that_are_no_page_are_refused(values):
    data, footer = written(values, compression="zstd")
    extent = parquet_pages.Extent.of(footer, 0, "patch")
    with pytest.raises(parquet_pages.PageError):
        parquet_pages.plain_rows(b"\xff" * extent.size, extent, width=WIDTH)
    half = data[extent.offset : extent.offset + extent.size // 2]
    with pytest.raises(parquet_pages.PageError, match="decompress"):
        parquet_pages.plain_rows(half, extent, width=WIDTH)


def rows_of(data: bytes, *, width: int = WIDTH, column: str = "patch") -> tuple[np.ndarray, list[bool]]:
    """All rows of a file, and for each row group whether pyarrow decoded it."""
    own, used, parts = pq.read_metadata(pa.BufferReader(data)), [], []
    for group in range(own.num_row_groups):
        extent, calls = parquet_pages.Extent.of(own, group, column), []
        part = data[extent.offset : extent.offset + extent.size]
        parts.append(
            parquet_pages.read_rows(
                part, extent, width=width, footer=lambda calls=calls: calls.append(1) or own
            )
        )
        used.append(bool(calls))
    return np.concatenate(parts), used


@pytest.mark.parametrize("page_version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("encoding", ["plain", "dictionary", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_whatever_pyarrow_writes_is_read(values, page_version, compression, encoding):
    options = {"use_dictionary": encoding == "dictionary"}
    if encoding.startswith("DELTA"):
        options["column_encoding"] = {"patch": encoding}
    data, _ = written(values, compression=compression, data_page_version=page_version, **options)
    found, by_pyarrow = rows_of(data)
    np.testing.assert_array_equal(found, values)
    plain = page_version == "1.0" and encoding == "plain" and compression in ("none", "zstd")
    assert by_pyarrow == [not plain] * 3


@pytest.mark.parametrize(
    "options", [{"data_page_size": 600, "write_batch_size": 1}, {"use_byte_stream_split": False}]
)
@pytest.mark.parametrize("repeated", [False, True])
def test_several_pages_behind_a_dictionary(values, options, repeated):
    if repeated:
        values = values[np.arange(20) % 3]
    data, _ = written(values, use_dictionary=True, compression="snappy", **options)
    np.testing.assert_array_equal(rows_of(data)[0], values)


def test_types_of_binary_columns_and_of_text(values):
    letters = values + 65
    for kind in (pa.binary(), pa.large_binary(), pa.string(), pa.dictionary(pa.int32(), pa.binary())):
        sink = pa.BufferOutputStream()
        column = pa.array([row.tobytes() for row in letters], pa.binary())
        column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
        pq.write_table(pa.table({"patch": column}), sink, compression="gzip")
        np.testing.assert_array_equal(rows_of(sink.getvalue().to_pybytes())[0], letters)


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("compression", ["uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4_raw"])
def test_what_duckdb_writes_is_read(values, tmp_path, version, compression):
    """Distinct values, and few that repeat: DuckDB then has a dictionary."""
    for number, rows in enumerate((values, values[np.arange(2000) % 3])):
        table = pa.table(
            {"first": np.arange(len(rows)), "patch": pa.array([r.tobytes() for r in rows], pa.binary())}
        )
        file = tmp_path / f"{number}.parquet"
        connection = duckdb.connect()
        connection.register("patches", table)
        connection.execute(
            f"COPY (SELECT * FROM patches ORDER BY first) TO '{file}' "
            f"(FORMAT parquet, COMPRESSION {compression}, PARQUET_VERSION {version})"
        )
        np.testing.assert_array_equal(rows_of(file.read_bytes())[0], rows)


@pytest.mark.parametrize("compression", ["uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4"])
def test_what_polars_writes_is_read(values, compression):
    for rows in (values, values[np.arange(2000) % 3]):
        frame = pl.DataFrame({"first": np.arange(len(rows)), "patch": [row.tobytes() for row in rows]})
        sink = io.BytesIO()
        frame.write_parquet(sink, compression=compression, row_group_size=max(7, len(rows) // 3))
        np.testing.assert_array_equal(rows_of(sink.getvalue())[0], rows)


def test_a_slower_read_is_logged_once_a_reason(values, caplog):
    parquet_pages._warn_once.cache_clear()
    data, _ = written(values, compression="snappy")
    with caplog.at_level(logging.WARNING):
        rows_of(data)
    assert [record.getMessage() for record in caplog.records] == [
        "patches are decoded by pyarrow, which takes longer: pages that are compressed with snappy, not with zstd"
    ]


@pytest.mark.parametrize("compression", ["none", "zstd", "snappy"])
def test_damage_and_other_widths_are_errors_in_either_decoder(values, compression):
    data, footer = written(values, compression=compression)
    extent = parquet_pages.Extent.of(footer, 0, "patch")
    whole = data[extent.offset : extent.offset + extent.size]
    for part in (b"\xff" * extent.size, whole[: extent.size // 2], b""):
        with pytest.raises(parquet_pages.PageError):
            parquet_pages.read_rows(part, extent, width=WIDTH, footer=lambda: footer)
    with pytest.raises(parquet_pages.PageError, match="where each should have"):
        parquet_pages.read_rows(whole, extent, width=WIDTH // 2, footer=lambda: footer)


@pytest.mark.parametrize("use_dictionary", [False, True])
def test_missing_values_are_errors(use_dictionary):
    sink = pa.BufferOutputStream()
    column = pa.array([b"x" * WIDTH, None, b"y" * WIDTH], pa.binary())
    pq.write_table(pa.table({"patch": column}), sink, use_dictionary=use_dictionary)
    with pytest.raises(parquet_pages.PageError, match="none be null"):
        rows_of(sink.getvalue().to_pybytes())


def test_a_column_that_is_not_binary_is_refused():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"patch": np.arange(5)}), sink)
    with pytest.raises(parquet_pages.PageError, match="INT64, not binary"):
        rows_of(sink.getvalue().to_pybytes())
