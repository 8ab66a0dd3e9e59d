"""One SeriesInstanceUID in several folders: parts, copies, other acquisitions, other people."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk

from ctplatform.cohort.discovery import Discovery, discover
from ctplatform.cohort.scan_rules import Findings
from ctplatform.cohort.split_series import connected_folders
from ctplatform.cohort.table import read_cohort, write_cohort
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.fingerprint import fingerprint
from ctplatform.imaging.volume import content_hash, read_volume
from tests.ctplatform.scans import chest, edit

UID, STUDY = "1.2.3.4", "1.2.3"


def write(folder: Path, image: sitk.Image, **header: object) -> None:
    names = {"SeriesInstanceUID": UID, "StudyInstanceUID": STUDY, "PatientID": "P-1"}
    write_dicom_series(image, folder, header=names | header)


def places(found: Discovery, root: Path) -> list[str]:
    return [path.replace(f"{root}/", "") for path in found.table["path"]]


def move(folder: Path, other: Path, indices: slice) -> None:
    other.mkdir(parents=True)
    for file in sorted(folder.iterdir())[indices]:
        file.rename(other / file.name)


@pytest.mark.parametrize("moved", [slice(10, None), slice(1, None, 2)], ids=["halves", "every second slice"])
def test_a_series_in_two_folders_is_one_scan(tmp_path: Path, moved: slice) -> None:
    image = chest()
    write(tmp_path / "all" / "a", image)
    whole = content_hash(read_volume(tmp_path / "all" / "a"))
    move(tmp_path / "all" / "a", tmp_path / "all" / "b", moved)
    (tmp_path / "all" / "b" / "notes.txt").write_text("free")
    found = discover(tmp_path / "all")
    assert places(found, tmp_path / "all") == ["a|b"]
    assert found.passed_over == ["b: 1 file(s) that are no CT volume (notes.txt)"]
    path = found.table["path"][0]
    assert content_hash(read_volume(path, series_uid=UID)) == whole
    found.table["path"] = ["all/a|all/b"]
    write_cohort(found.table, tmp_path / "cohort.csv")
    assert read_cohort(tmp_path / "cohort.csv")["path"][0] == path
    before = fingerprint(path, UID)
    edit(tmp_path / "all" / "b", 0, StudyDate="20200101")
    assert before
    assert fingerprint(path, UID) != before


def test_parts_that_make_no_volume_are_named_with_both_folders(tmp_path: Path) -> None:
    image = sitk.Expand(chest(), (1, 1, 2))
    write(tmp_path / "a", image)
    move(tmp_path / "a", tmp_path / "b", slice(24, None))
    for file in sorted((tmp_path / "b").iterdir())[:4]:
        file.unlink()
    write(tmp_path / "other", chest(seed=1), SeriesInstanceUID="1.2.9", PatientID="P-2")
    found = discover(tmp_path)
    assert places(found, tmp_path) == ["other"]
    assert len(found.passed_over) == 1
    assert found.passed_over[0].startswith(
        "a and b: parts of one series that make no volume together: 4 slice"
    )


def test_a_copy_of_a_part_is_the_same_scan(tmp_path: Path) -> None:
    write(tmp_path / "a", chest())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    for file in sorted((tmp_path / "b").iterdir())[15:]:
        file.unlink()
    edit(tmp_path / "c", PatientID="")
    found = discover(tmp_path)
    assert places(found, tmp_path) == ["a"]
    assert found.passed_over == ["c: the same scan as a", "b: the same scan as a"]


def test_a_part_again_with_other_uids_is_the_same_scan(tmp_path: Path) -> None:
    write(tmp_path / "a", chest())
    write(tmp_path / "b", chest())
    files = sorted((tmp_path / "b").iterdir())
    for k in range(15):
        edit(tmp_path / "b", k, SOPInstanceUID=f"1.2.77.{k}")
    for file in files[15:]:
        file.unlink()
    found = discover(tmp_path)
    assert places(found, tmp_path) == ["a"]
    assert found.passed_over == ["b: the same scan as a"]


@pytest.mark.parametrize("patient_id", ["  p-1 ", ""])
def test_parts_whose_patient_id_is_written_otherwise_are_one_scan(tmp_path: Path, patient_id: str) -> None:
    write(tmp_path / "all" / "a", chest())
    whole = content_hash(read_volume(tmp_path / "all" / "a"))
    move(tmp_path / "all" / "a", tmp_path / "all" / "b", slice(10, None))
    edit(tmp_path / "all" / "b", PatientID=patient_id)
    found = discover(tmp_path / "all")
    assert places(found, tmp_path / "all") == ["a|b"]
    assert content_hash(read_volume(found.table["path"][0])) == whole


def test_people_with_the_same_placeholder_and_uids_stay_apart(tmp_path: Path) -> None:
    """Anonymised with one UID for all, images too, and a word for the PatientID: pixels differ."""
    for k in range(3):
        write(tmp_path / f"p{k}", chest(seed=k), PatientID="ANON")
        for n in range(20):
            edit(tmp_path / f"p{k}", n, SOPInstanceUID=f"1.2.77.{n}")
    found = discover(tmp_path)
    assert places(found, tmp_path) == ["p0", "p1", "p2"]
    assert found.table["subject_id"].nunique() == found.table["scan_id"].nunique() == 3


def test_people_and_acquisitions_with_one_uid_stay_apart(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / "people" / f"p{k}", chest(seed=k), PatientID=f"P-{k}")
    found = discover(tmp_path / "people")
    assert places(found, tmp_path / "people") == ["p0", "p1", "p2"]
    assert found.table["subject_id"].nunique() == found.table["scan_id"].nunique() == 3
    assert not found.passed_over
    again = discover(tmp_path / "people").table
    assert list(again["scan_id"]) == list(found.table["scan_id"])
    for k in (1, 2):
        write(tmp_path / "split" / f"acq{k}", chest(seed=k), AcquisitionNumber=k)
    found = discover(tmp_path / "split")
    assert places(found, tmp_path / "split") == ["acq1", "acq2"]
    assert found.table["scan_id"].nunique() == 2
    assert found.table["subject_id"].nunique() == 1


def test_folders_are_connected_over_others(tmp_path: Path) -> None:
    shared = {"a": ("1",), "b": ("1", "2"), "c": ("2",), "d": ("3",), "e": ("4", "5"), "f": ("5",)}
    findings = [Findings([], [], Path(name), uids) for name, uids in shared.items()]
    assert connected_folders(findings) == [[Path("a"), Path("b"), Path("c")], [Path("e"), Path("f")]]
