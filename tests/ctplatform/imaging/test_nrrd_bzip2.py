"""NRRD packed by bzip2: read wherever the header says the data is; damaged and endless data is refused."""

from __future__ import annotations

import bz2
import gzip
import resource
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.cohort.discovery import discover
from ctplatform.imaging.label_map import read_label_map
from ctplatform.imaging.limits import Limits, reading_limits
from ctplatform.imaging.volume import content_hash, read_volume
from tests.ctplatform.imaging.test_itk_file import RAW, check, nrrd
from tests.ctplatform.scans import array, chest, code_of

PACKED = bz2.compress(RAW)
HALVES = [bz2.compress(RAW[: len(RAW) // 2]), bz2.compress(RAW[len(RAW) // 2 :])]


@pytest.mark.parametrize("encoding", ["bzip2", "bz2", "BZ2"])
def test_data_behind_the_header(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(nrrd(encoding=encoding) + PACKED)
    assert check(tmp_path / "a.nrrd") == ()
    (tmp_path / "b.nrrd").write_bytes(nrrd(encoding=encoding).replace(b"\n", b"\r\n") + PACKED)
    check(tmp_path / "b.nrrd")


def test_several_streams_as_parallel_packers_write_them(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(nrrd(encoding="bzip2") + b"".join(HALVES))
    check(tmp_path / "a.nrrd")


def test_lines_are_skipped_before_and_bytes_after_unpacking(tmp_path: Path) -> None:
    head = nrrd(encoding="bzip2", more="line skip: 2\nbyte skip: 7\n")
    (tmp_path / "a.nrrd").write_bytes(head + b"one\ntwo\n" + bz2.compress(b"7 bytes" + RAW))
    check(tmp_path / "a.nrrd")
    (tmp_path / "b.nrrd").write_bytes(nrrd(encoding="bzip2", more="byte skip: -1\n") + PACKED)
    assert code_of(tmp_path / "b.nrrd") == "bad-header"


@pytest.mark.parametrize("field", ["CT 1.raw.bz2", "s%d.bz2 1 2 1", "LIST\ns1.bz2\ns2.bz2"])
def test_separate_data_files(tmp_path: Path, field: str) -> None:
    (tmp_path / "CT 1.raw.bz2").write_bytes(PACKED)
    for k, half in enumerate(HALVES, 1):
        (tmp_path / f"s{k}.bz2").write_bytes(half)
    (tmp_path / "a.nhdr").write_bytes(nrrd(encoding="bzip2", more=f"data file: {field}\n"))
    check(tmp_path / "a.nhdr")
    (tmp_path / ("CT 1.raw.bz2" if field.startswith("CT") else "s2.bz2")).unlink()
    assert code_of(tmp_path / "a.nhdr") == "truncated"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "truncated"),
        (PACKED[:-40], "truncated"),
        (bz2.compress(RAW[:-100]), "truncated"),
        (PACKED[:500] + bytes([PACKED[500] ^ 255]) + PACKED[501:], "unreadable"),
        (gzip.compress(RAW), "unreadable"),
        (RAW, "unreadable"),
    ],
)
def test_data_that_is_damaged(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(nrrd(encoding="bzip2") + data)
    assert code_of(tmp_path / "a.nrrd") == code


def test_more_data_than_the_header_says_is_refused_at_once(tmp_path: Path) -> None:
    bomb = PACKED + bz2.compress(bytes(200 << 20))
    (tmp_path / "a.nrrd").write_bytes(nrrd(encoding="bzip2") + bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert code_of(tmp_path / "a.nrrd") == "too-large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"
    (tmp_path / "b.nrrd").write_bytes(nrrd(encoding="bzip2") + PACKED)
    with reading_limits(Limits(max_bytes_unpacked=1000)):
        assert code_of(tmp_path / "b.nrrd") == "too-large"


def test_discovery_and_label_maps_read_it_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nrrd").write_bytes(nrrd(encoding="bzip2") + PACKED)
    sitk.WriteImage(chest(), str(tmp_path / "in" / "b.nii.gz"))
    found = discover(tmp_path / "in")
    assert len(found.table) == 1, "the same voxels in two formats are the same scan"
    assert content_hash(read_volume(tmp_path / "in" / "a.nrrd")) == content_hash(
        read_volume(tmp_path / "in" / "b.nii.gz")
    )
    labels = (array(chest()) < -700).astype("<i2").tobytes()
    (tmp_path / "map.nrrd").write_bytes(nrrd(encoding="bzip2") + bz2.compress(labels))
    image = read_label_map(str(tmp_path / "map.nrrd"), {"dark": 1})
    assert np.array_equal(array(image), array(chest()) < -700)
