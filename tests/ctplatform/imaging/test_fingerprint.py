"""A scan's fingerprint changes with any of its files, and only then."""

from __future__ import annotations

import SimpleITK as sitk

from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.fingerprint import fingerprint
from tests.ctplatform.scans import chest


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
