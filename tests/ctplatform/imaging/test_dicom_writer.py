"""The writer of DICOM series: what is written is read, and the same call writes the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctplatform.imaging.dicom_writer import write_dicom_series
from tests.ctplatform.scans import array, chest, rotated


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_same_call_writes_the_same_files(tmp_path: Path) -> None:
    patient = {"PatientID": "p1", "StudyDate": "20200101"}
    first = write_dicom_series(chest(), tmp_path / "a", patient=patient)
    assert write_dicom_series(chest(), tmp_path / "b", patient=patient) == first
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_uids_differ_with_pixels_geometry_patient_and_series(tmp_path: Path) -> None:
    moved = chest()
    moved.SetOrigin((1, 2, 3))
    uids = [
        write_dicom_series(chest(), tmp_path / "0"),
        write_dicom_series(chest(seed=1), tmp_path / "1"),
        write_dicom_series(moved, tmp_path / "2"),
        write_dicom_series(chest(), tmp_path / "3", patient={"PatientID": "p"}),
        write_dicom_series(chest(), tmp_path / "4", series="2"),
    ]
    assert len(set(uids)) == len(uids)


def test_one_patient_has_one_study(tmp_path: Path) -> None:
    patient = {"PatientID": "p"}
    for name, seed, who in (("a", 0, patient), ("b", 1, patient), ("c", 0, None), ("d", 1, None)):
        write_dicom_series(chest(seed=seed), tmp_path / name, patient=who)
    studies = {n: pydicom.dcmread(tmp_path / n / "0001.dcm").StudyInstanceUID for n in "abcd"}
    assert studies["a"] == studies["b"]
    assert len(set(studies.values())) == 3


def test_headers_replace_and_remove(tmp_path: Path) -> None:
    header = {"Manufacturer": "Phantom", "SliceThickness": None, "SeriesInstanceUID": "1.2.3"}
    assert write_dicom_series(chest(), tmp_path / "a", header=header) == "1.2.3"
    for file in (tmp_path / "a").iterdir():
        data = pydicom.dcmread(file)
        assert data.Manufacturer == "Phantom"
        assert "SliceThickness" not in data
        assert data.SeriesInstanceUID == "1.2.3"


@pytest.mark.parametrize("degrees", [0.0, 13.0])
def test_gdcm_reads_pixels_and_geometry(tmp_path: Path, degrees: float) -> None:
    image = rotated(chest(), degrees=degrees)
    uid = write_dicom_series(image, tmp_path / "a")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "a"), uid))
    found = reader.Execute()
    assert np.array_equal(array(found), array(image))
    np.testing.assert_allclose(found.GetOrigin(), image.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(found.GetSpacing(), image.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(found.GetDirection(), image.GetDirection(), atol=1e-6)


def test_values_beyond_the_stored_range_are_clipped(tmp_path: Path) -> None:
    hu = np.full((2, 3, 4), 40.0, np.float32)
    hu[0, 0, :2] = (-1e6, 1e6)
    write_dicom_series(sitk.GetImageFromArray(hu), tmp_path / "a")
    data = pydicom.dcmread(tmp_path / "a" / "0001.dcm")
    stored = data.pixel_array + float(data.RescaleIntercept)
    assert stored[0].tolist() == [-1024 - 32768, 31743, 40, 40]


def test_numbers_keep_to_the_length_of_decimal_strings(tmp_path: Path) -> None:
    image = chest()
    image.SetOrigin((-121.123456789012345, 1e-7 / 3, -300.123456789))
    with pydicom.config.disable_value_validation():
        write_dicom_series(rotated(image, degrees=7.3), tmp_path / "a")
    data = pydicom.dcmread(tmp_path / "a" / "0001.dcm")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        assert all(len(str(value)) <= 16 for value in data[keyword].value), keyword
