"""Patches read from the pages themselves are those that pyarrow reads."""

from __future__ import annotations

import numpy as np
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
    return parquet_pages.rows(data[extent.offset : extent.offset + extent.size], extent, width=width)


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


def test_what_other_writers_do_is_refused(values):
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
        parquet_pages.rows(b"\xff" * extent.size, extent, width=WIDTH)
    half = data[extent.offset : extent.offset + extent.size // 2]
    with pytest.raises(parquet_pages.PageError, match="decompress"):
        parquet_pages.rows(half, extent, width=WIDTH)
