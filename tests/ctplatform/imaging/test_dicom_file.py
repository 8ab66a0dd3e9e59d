"""Files of the deflated transfer syntax are unpacked as far as their header says, and others are read as they are."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ctplatform.errors import ScanError
from ctplatform.imaging import dicom_file
from ctplatform.imaging.dicom_file import DicomFile, read_file
from ctplatform.imaging.dicom_headers import index_files
from ctplatform.imaging.dicom_labels import read_dicom_labels
from ctplatform.imaging.limits import Limits, reading_limits
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.imaging.labelled import write_segmentation
from tests.ctplatform.scans import array, chest, code_of


def deflate(file: Path, *, before: bytes = b"", behind: bytes = b"") -> int:
    """Rewrite a file in the deflated transfer syntax, with more at the ends of its data set; returns its place."""
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(file)
    stored = file.read_bytes()
    start = 144 + int.from_bytes(stored[140:144], "little")
    plain = zlib.decompress(stored[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(before + plain + behind) + packer.flush()
    file.write_bytes(stored[:start] + packed)
    return start


def test_deflated_series_are_read(series: Path) -> None:
    for file in series.iterdir():
        deflate(file, behind=bytes(500))
    assert np.array_equal(array(read_volume(series).image), array(chest()))
    with reading_limits(Limits(max_bytes_unpacked=20_000)):
        read_volume(series)


def test_more_than_the_header_says_is_refused(series: Path) -> None:
    file = sorted(series.iterdir())[4]
    deflate(file, behind=bytes(3 << 20))
    assert file.stat().st_size < 20_000
    assert code_of(series) == "too-large"
    assert len(index_files([file])) == 1, "the header can be read"
    with pytest.raises(ScanError, match="larger than the header says"):
        read_file(file)


def test_what_the_header_claims_is_limited_too(series: Path) -> None:
    for file in series.iterdir():
        deflate(file)
    with reading_limits(Limits(max_bytes_unpacked=1500)):
        assert code_of(series) == "too-large"
    with (
        reading_limits(Limits(max_bytes_unpacked=1500)),
        pytest.raises(ScanError, match=r"prepare\.max_bytes_unpacked=1,500"),
    ):
        read_file(next(series.iterdir()))


def test_a_header_that_does_not_end_is_none(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_file, "HEADER_BYTES", 1 << 16)
    file = next(series.iterdir())
    # (0008,0001) Length to End, retired: before all that the header needs.
    claim = b"\x08\x00\x01\x00OB\x00\x00" + (3 << 20).to_bytes(4, "little") + bytes(3 << 20)
    start = deflate(file, before=claim)
    with DicomFile(file, header_only=True) as stream:
        stream.seek(start)
        assert len(zlib.decompress(stream.read(), -zlib.MAX_WBITS)) <= 1 << 16
    assert index_files([file]) == []
    with pytest.raises(ScanError, match="larger than the header says"):
        read_file(file)


def test_deflated_labels(series: Path, tmp_path: Path) -> None:
    file = write_segmentation(tmp_path / "seg.dcm", series, {"dark": array(chest()) < -700})
    plain = read_dicom_labels(file)
    deflate(file)
    assert np.array_equal(read_dicom_labels(file).volume.values_ZYX, plain.volume.values_ZYX)
    deflate(file, behind=bytes(3 << 20))
    with pytest.raises(ScanError) as caught:
        read_dicom_labels(file)
    assert caught.value.code == "too-large"


def test_other_files_are_read_as_they_are(series: Path) -> None:
    file = next(series.iterdir())
    with DicomFile(file) as stream:
        assert isinstance(stream, io.BufferedReader)
        assert stream.read(132) == file.read_bytes()[:132]
        assert stream.tell() == 132
    assert read_file(file) == pydicom.dcmread(file)
