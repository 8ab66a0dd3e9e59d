"""DICOM from a zip archive and from a DICOMDIR; folders and files are covered by the tests of `volume`."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

from ctplatform.cohort.discovery import discover
from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_study import dicom_files, series_of
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.fingerprint import fingerprint
from ctplatform.imaging.volume import content_hash, read_volume
from tests.ctplatform.scans import chest, code_of

NAMES = {"PatientID": "P-1", "PatientName": "A^B", "StudyID": "1"}


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder))
    return target


def medium(folder: Path, *series: Path) -> Path:
    """The DICOMDIR of a medium with the images of some series."""
    files = FileSet()
    for part in series:
        for file in sorted(part.iterdir()):
            data = pydicom.dcmread(file)
            data.StudyDate, data.StudyTime, data.SeriesNumber = "20200101", "120000", 1
            files.add(data)
    files.write(folder)
    return folder / "DICOMDIR"


class TestZippedStudy:
    def test_it_is_read_as_its_folder(self, tmp_path: Path) -> None:
        uid = write_dicom_series(chest(), tmp_path / "study" / "a", header=NAMES)
        write_dicom_series(chest(seed=1), tmp_path / "study" / "b", header=NAMES | {"Modality": "MR"})
        (tmp_path / "in").mkdir()
        archive = zipped(tmp_path / "study", tmp_path / "in" / "study.ZIP")
        volume = read_volume(archive, series_uid=uid)
        assert content_hash(volume) == content_hash(read_volume(tmp_path / "study" / "a"))
        assert content_hash(read_volume(archive)) == content_hash(volume)
        found = discover(tmp_path / "in")
        assert list(found.table["path"]) == [str(archive)]
        assert list(found.table["series_uid"]) == [uid]
        assert found.passed_over == ["study.ZIP: MR series of 20 image(s): the modality is MR, not CT"]
        before = fingerprint(str(archive), uid)
        shutil.copy(archive, tmp_path / "in" / "other.zip")
        assert before
        assert fingerprint(str(archive), uid) == before

    def test_a_zipped_volume(self, tmp_path: Path) -> None:
        import SimpleITK as sitk

        (tmp_path / "one").mkdir()
        sitk.WriteImage(chest(), str(tmp_path / "one" / "ct.nii.gz"))
        archive = zipped(tmp_path / "one", tmp_path / "one.zip")
        assert content_hash(read_volume(archive)) == content_hash(read_volume(tmp_path / "one" / "ct.nii.gz"))

    def test_damaged_ones_are_scan_errors(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "study", header=NAMES)
        archive = zipped(tmp_path / "study", tmp_path / "study.zip")
        content = archive.read_bytes()
        (tmp_path / "short.zip").write_bytes(content[: len(content) // 2])
        (tmp_path / "text.zip").write_text("hello")
        flipped = bytearray(content)
        flipped[2000:2100] = bytes(100)
        (tmp_path / "flipped.zip").write_bytes(flipped)
        with zipfile.ZipFile(tmp_path / "empty.zip", "w") as packed:
            packed.writestr("readme.txt", "hello")
        for name in ("short", "text", "flipped"):
            assert code_of(tmp_path / f"{name}.zip") == "unreadable"
        assert code_of(tmp_path / "empty.zip") == "no-images"
        lines = dict(line.split(": ", 1) for line in discover(tmp_path).passed_over if ".zip" in line)
        assert lines["text.zip"] == "the zip archive is damaged or encrypted"
        assert lines["empty.zip"] == "no DICOM images in the archive"


class TestDicomdir:
    def test_the_listed_images_are_read(self, tmp_path: Path) -> None:
        uid = write_dicom_series(chest(), tmp_path / "a", header=NAMES | {"SeriesDescription": "chest"})
        other = write_dicom_series(chest(seed=1), tmp_path / "b", header=NAMES)
        directory = medium(tmp_path / "disc-7", tmp_path / "a", tmp_path / "b")
        for series, folder in ((uid, "a"), (other, "b")):
            volume = read_volume(directory, series_uid=series)
            assert content_hash(volume) == content_hash(read_volume(tmp_path / folder))
        assert fingerprint(str(directory), uid)
        found = discover(tmp_path / "disc-7")
        assert set(found.table["series_uid"]) <= {uid, other}
        assert not any("no CT volume" in line for line in found.passed_over)
        next(p for p in dicom_files([directory]) if p.is_file()).unlink()
        assert code_of(directory, series_uid=uid) == "missing-path"

    def test_one_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "DICOMDIR").write_text("hello")
        assert code_of(tmp_path / "DICOMDIR") == "unreadable"


def test_a_file_names_its_series(tmp_path: Path) -> None:
    uid = write_dicom_series(chest(), tmp_path / "a")
    (tmp_path / "text").write_text("hello")
    assert series_of(tmp_path / "a" / "0001.dcm") == uid
    assert series_of(tmp_path / "a") is None
    with pytest.raises(ScanError) as caught:
        series_of(tmp_path / "text")
    assert caught.value.code == "unknown-format"
