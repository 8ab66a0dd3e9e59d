"""Separate data files of NRRD and MetaImage headers: in the header's folder, and part of the fingerprint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctplatform.errors import ScanError
from ctplatform.imaging.data_files import check_data_files, data_file, data_files, form_of, header_fields
from ctplatform.imaging.fingerprint import fingerprint
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.imaging.test_itk_file import RAW, metaimage, nrrd
from tests.ctplatform.scans import code_of


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """(folder of the header, another patient's folder with data of the right size)."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    (other / "other.raw").write_bytes(RAW)
    return mine, other


@pytest.mark.parametrize("named", ["../other/other.raw", "{other}/other.raw", "below/../../other/other.raw"])
def test_data_outside_of_the_headers_folder_is_refused(folders, named: str) -> None:
    mine, other = folders
    named = named.format(other=other)
    (mine / "a.nhdr").write_bytes(nrrd(more=f"data file: {named}\n"))
    (mine / "b.mhd").write_bytes(metaimage(data=named))
    (mine / "c.mhd").write_bytes(metaimage(data="LIST") + f"{named}\n".encode())
    for name in ("a.nhdr", "b.mhd", "c.mhd"):
        assert code_of(mine / name) == "outside-folder"


def test_data_beside_or_below_the_header_is_read(folders) -> None:
    mine, _ = folders
    (mine / "data").mkdir()
    for name in ("a.raw", "data/a.raw"):
        (mine / name).write_bytes(RAW)
        (mine / "a.nhdr").write_bytes(nrrd(more=f"data file: {name}\n"))
        assert read_volume(mine / "a.nhdr").image.GetSize() == (30, 26, 20)


def test_data_that_is_a_pipe_is_not_opened(folders) -> None:
    mine, _ = folders
    os.mkfifo(mine / "a.raw")
    (mine / "a.mhd").write_bytes(metaimage(data="a.raw"))
    assert code_of(mine / "a.mhd") == "not-a-file"


def test_patterns_and_lists_name_their_files(tmp_path: Path) -> None:
    header = tmp_path / "a.mhd"
    assert [file.name for file in data_files(header, "s%02d.raw 1 5 2", "MetaImage")] == [
        "s01.raw",
        "s03.raw",
        "s05.raw",
    ]
    for wrong in ("s%02d.raw", "s%02d.raw 1 x", "s%02d.raw 1 2 0", "s%02d.raw 1 99999999"):
        with pytest.raises(ScanError, match="makes no sense"):
            data_files(header, wrong, "MetaImage")
    header.write_bytes(metaimage(data="LIST") + b"one.raw\ntwo.raw\n")
    form = form_of(header)
    named = data_file(header_fields(header, form), form)
    assert [file.name for file in data_files(header, named, form)] == ["one.raw", "two.raw"]
    check_data_files(header, named, form)


def test_a_change_of_the_data_changes_the_fingerprint(folders) -> None:
    mine, _ = folders
    (mine / "voxels.raw").write_bytes(RAW)
    (mine / "a.nhdr").write_bytes(nrrd(more="data file: voxels.raw\n"))
    before = fingerprint(str(mine / "a.nhdr"))
    os.utime(mine / "voxels.raw", ns=(1, 1))
    assert before
    assert fingerprint(str(mine / "a.nhdr")) != before
