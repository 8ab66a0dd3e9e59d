"""What one scan may take is checked by its header: voxels, unpacked bytes, and only regular files are opened."""

from __future__ import annotations

import gzip
import os
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_headers import index_files
from ctplatform.imaging.limits import Limits, check_regular, check_voxels, reading_limits, unpacked_limit
from ctplatform.imaging.volume import read_volume
from tests.benchmarks.peak import peak_mib
from tests.ctplatform.scans import chest, code_of


@pytest.fixture
def scan(tmp_path: Path) -> bytes:
    """The chest of `scans` as an unpacked NIfTI file."""
    sitk.WriteImage(chest(), str(tmp_path / "good.nii"))
    return (tmp_path / "good.nii").read_bytes()


def test_more_voxels_than_the_limit_are_refused_before_they_are_read(tmp_path: Path, scan: bytes) -> None:
    claim = bytearray(scan)
    struct.pack_into("<4h", claim, 40, 3, 1290, 1290, 1290)
    (tmp_path / "a.nii").write_bytes(claim)
    (tmp_path / "b.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 1290 1290 1290\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\nendian: little\n\n"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert code_of(tmp_path / "a.nii") == "too-large"
    assert code_of(tmp_path / "b.nrrd") == "too-large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB"
    (tmp_path / "c.nii").write_bytes(scan)
    with (
        reading_limits(Limits(max_voxels=1000)),
        pytest.raises(ScanError, match=r"prepare\.max_voxels=1,000"),
    ):
        read_volume(tmp_path / "c.nii")
    assert read_volume(tmp_path / "c.nii").image.GetSize() == chest().GetSize()


def test_a_file_that_unpacks_to_more_than_its_header_says_is_refused_at_once(
    tmp_path: Path, scan: bytes
) -> None:
    bomb = gzip.compress(scan, 1) + gzip.compress(bytes(300 << 20), 9)
    (tmp_path / "a.nii.gz").write_bytes(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert code_of(tmp_path / "a.nii.gz") == "too-large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(scan + bytes(1000)))
    assert np.array_equal(
        sitk.GetArrayFromImage(read_volume(tmp_path / "b.nii.gz").image), sitk.GetArrayFromImage(chest())
    ), "a few bytes of padding are none of a bomb"
    with reading_limits(Limits(max_bytes_unpacked=1000)):
        assert code_of(tmp_path / "b.nii.gz") == "too-large"


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_more_voxels_than_the_file_can_hold_are_refused_before_memory_is_taken(
    tmp_path: Path, encoding: str
) -> None:
    voxels = bytes(4000) if encoding == "raw" else gzip.compress(bytes(4000))
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 1000 1000 1000\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: "
        + encoding.encode()
        + b"\nendian: little\n\n"
        + voxels
    )
    packed = b"False" if encoding == "raw" else b"True"
    (tmp_path / "a.mha").write_bytes(
        b"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = " + packed + b"\n"
        b"DimSize = 1000 1000 1000\nElementType = MET_SHORT\nElementDataFile = LOCAL\n" + voxels
    )
    before = peak_mib()
    for name in ("a.nrrd", "a.mha"):
        assert code_of(tmp_path / name) == "truncated"
    assert peak_mib() - before < 200


def test_extensions_of_any_size_are_not_read(tmp_path: Path, scan: bytes) -> None:
    claim = bytearray(scan)
    struct.pack_into("<f", claim, 108, 2.0e9)
    claim[348] = 1
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(claim))
    assert code_of(tmp_path / "a.nii.gz") == "bad-header"


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii.gz")
    os.mkfifo(tmp_path / "b.nrrd")
    (tmp_path / "c.mha").symlink_to("/dev/zero")
    for name in ("a.nii.gz", "b.nrrd", "c.mha"):
        assert code_of(tmp_path / name) == "not-a-file"
    os.mkfifo(tmp_path / "d.dcm")
    assert index_files([tmp_path / "d.dcm"]) == []
    with pytest.raises(ScanError, match="no regular file"):
        check_regular(tmp_path)


def test_limits_hold_in_their_context_only() -> None:
    with reading_limits(Limits(max_voxels=7)):
        check_voxels((1, 1, 7))
        with pytest.raises(ScanError, match="1 x 1 x 8 voxels"):
            check_voxels((1, 1, 8))
    check_voxels((1024, 1024, 1024))
    with reading_limits(Limits(max_bytes_unpacked=100)):
        assert unpacked_limit(60) == 100
        with pytest.raises(ScanError, match="claims 101 bytes"):
            unpacked_limit(101)
