"""Fingerprints change with the files of a scan, and with nothing else."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import SimpleITK as sitk

from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.fingerprint import fingerprint
from tests.ctplatform.scans import chest


def test_reading_changes_nothing_writing_does(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(chest(), str(path))
    first = fingerprint(str(path))
    assert re.fullmatch("[0-9a-f]{12}", first)
    path.read_bytes()
    assert fingerprint(str(path)) == first
    os.utime(path, ns=(1, 1))
    assert fingerprint(str(path)) != first


def test_a_moved_file_keeps_its_fingerprint(tmp_path: Path) -> None:
    sitk.WriteImage(chest(), str(tmp_path / "a.nrrd"))
    first = fingerprint(str(tmp_path / "a.nrrd"))
    (tmp_path / "a.nrrd").rename(tmp_path / "b.nrrd")
    assert fingerprint(str(tmp_path / "b.nrrd")) == first


def test_other_files_beside_a_volume_file_do_not_matter(tmp_path: Path) -> None:
    sitk.WriteImage(chest(), str(tmp_path / "a.nii"))
    first = fingerprint(str(tmp_path / "a.nii"))
    (tmp_path / "b.nii").write_bytes(b"other")
    assert fingerprint(str(tmp_path / "a.nii")) == first


@pytest.mark.parametrize("suffix", ["nhdr", "mhd"])
def test_the_data_file_of_a_detached_header_belongs_to_it(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(chest(), str(tmp_path / f"a.{suffix}"))
    (data,) = (p for p in tmp_path.iterdir() if p.suffix != f".{suffix}")
    first = fingerprint(str(tmp_path / f"a.{suffix}"))
    os.utime(data, ns=(1, 1))
    assert fingerprint(str(tmp_path / f"a.{suffix}")) != first


def test_a_slice_stands_for_its_series(series: Path) -> None:
    assert fingerprint(str(series / "0001.dcm")) == fingerprint(str(series)) != ""
    assert fingerprint(str(series), "1.2") != fingerprint(str(series), "1.3")


def test_uri_and_path_agree_and_nothing_is_empty(tmp_path: Path) -> None:
    sitk.WriteImage(chest(), str(tmp_path / "a.nii"))
    assert fingerprint((tmp_path / "a.nii").as_uri()) == fingerprint(str(tmp_path / "a.nii"))
    assert fingerprint(str(tmp_path / "none.nii")) == ""
    (tmp_path / "empty").mkdir()
    assert fingerprint(str(tmp_path / "empty")) == ""


def test_fingerprints_see_all_files_of_a_scan(tmp_path):
    write_dicom_series(chest(), tmp_path / "series")
    first = fingerprint(str(tmp_path / "series"))
    assert fingerprint(str(tmp_path / "series" / "0003.dcm")) == first, "one file stands for its series"
    assert fingerprint(str(tmp_path / "series"), "1.2.3") != first, "another series of the folder"
    (tmp_path / "series" / "0009.dcm").unlink()
    assert fingerprint(str(tmp_path / "series" / "0003.dcm")) != first
    sitk.WriteImage(chest(), str(tmp_path / "x.mhd"))
    before = fingerprint(str(tmp_path / "x.mhd"))
    (tmp_path / "x.raw").write_bytes(b"1")
    assert fingerprint(str(tmp_path / "x.mhd")) != before
    assert fingerprint(str(tmp_path / "nothing.nii")) == ""
    assert fingerprint((tmp_path / "x.mhd").as_uri()) == fingerprint(str(tmp_path / "x.mhd"))
