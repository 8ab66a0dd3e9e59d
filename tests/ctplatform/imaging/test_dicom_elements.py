"""Values of a header's elements: right where they are valid, none where they are not, and never an error."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate

from ctplatform.imaging.dicom_elements import (
    numbers,
    padding,
    pixel_range,
    rescale,
    rle_segments,
    text,
    whole_number,
    words,
)


def stored(tmp_path: Path, **elements: object) -> pydicom.Dataset:
    """A header with these elements, written and read again, so that its values are stored bytes."""
    data = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, implicit_vr=False, little_endian=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer, force=True)


def test_text_numbers_and_words(tmp_path: Path) -> None:
    data = stored(
        tmp_path, Modality="CT", PixelSpacing=[0.7, 0.8], ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], Rows=512
    )
    assert text(data, "Modality") == "CT"
    assert numbers(data, "PixelSpacing", 2) == (0.7, 0.8)
    assert words(data, "ImageType") == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert whole_number(data, "Rows", 0) == 512


def test_what_is_missing_or_of_another_count_is_none(tmp_path: Path) -> None:
    data = stored(tmp_path, PixelSpacing=[0.7, 0.8])
    assert text(data, "Modality") == ""
    assert words(data, "ImageType") == ()
    assert numbers(data, "PixelSpacing", 3) == ()
    assert whole_number(data, "Rows", 7) == 7


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, None),
        ({"RescaleSlope": 1, "RescaleIntercept": -1024}, (1.0, -1024.0)),
        ({"RescaleSlope": 0, "RescaleIntercept": -1024}, ()),
        ({"RescaleSlope": 1}, ()),
        ({"RescaleIntercept": -1024}, ()),
    ],
)
def test_rescale_is_a_pair_absent_or_unusable(tmp_path: Path, elements: dict, expected: tuple | None) -> None:
    assert rescale(stored(tmp_path, **elements)) == expected


def test_padding_is_a_range_of_stored_values(tmp_path: Path) -> None:
    assert padding(stored(tmp_path), signed=True) == ()
    data = pydicom.Dataset()
    data.add_new("PixelPaddingValue", "SS", -2000)
    assert padding(data, signed=True) == (-2000, -2000)
    data.add_new("PixelPaddingRangeLimit", "SS", -1500)
    assert padding(data, signed=True) == (-2000, -1500)


@pytest.mark.parametrize("cut", [0, 100])
def test_bytes_of_the_pixels_are_those_in_the_file(series: Path, tmp_path: Path, cut: int) -> None:
    content = (series / "0001.dcm").read_bytes()
    whole = len(pydicom.dcmread(series / "0001.dcm").PixelData)
    path = tmp_path / "slice.dcm"
    path.write_bytes(content[: len(content) - cut])
    with path.open("rb") as stream:
        data = pydicom.dcmread(stream, stop_before_pixels=True)
        assert pixel_range(data, stream) == (whole - cut, len(content) - whole)


@pytest.mark.parametrize("table", [True, False])
def test_segments_of_the_first_rle_fragment(tmp_path: Path, table: bool) -> None:
    for count in (0, 1, 2, 15):
        frames = encapsulate([struct.pack("<16L", count, *[64] * 15)], has_bot=table)
        (tmp_path / "a").write_bytes(bytes(12) + frames)
        with (tmp_path / "a").open("rb") as stream:
            assert rle_segments(stream) == count
    with io.BytesIO(bytes(40)) as stream:
        assert rle_segments(stream) == 0
