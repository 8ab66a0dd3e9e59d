"""Files, folders, trees and tables that are named one by one become one table, each scan once."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk

from ctplatform.cohort.given_scans import LISTED, given_scans
from ctplatform.errors import CohortError
from ctplatform.imaging.dicom_writer import write_dicom_series
from tests.ctplatform.scans import chest


def test_files_series_trees_and_tables_in_their_order(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_dicom_series(chest(), tree / "series")
    sitk.WriteImage(chest(seed=1), str(tree / "b.nii.gz"))
    (tree / "notes.txt").write_text("x")
    (tmp_path / "table.csv").write_text("scan_id,subject_id,path\nmine,p1,tree/c.nii.gz\n")
    found = given_scans(
        [str(tmp_path / "table.csv"), str(tmp_path / "gone.nii"), str(tree), "s3://b/d.nii.gz"]
    )
    table = found.table
    names = [Path(path).name for path in table["path"]]
    assert names[:2] == ["c.nii.gz", "gone.nii"]
    assert set(names[2:4]) == {"series", "b.nii.gz"}
    assert names[4:] == ["d.nii.gz"]
    assert table[LISTED].tolist() == [True, False, False, False, False]
    assert (table["scan_id"][0], table["subject_id"][0]) == ("mine", "p1")
    assert table["scan_id"].is_unique
    assert table["series_uid"].str.len().gt(0).sum() == 1, "of the DICOM series only"
    assert any("notes.txt" in line for line in found.passed_over)


def test_a_file_has_the_same_id_again_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nii.gz").touch()
    monkeypatch.chdir(tmp_path)
    one, two = given_scans(["a.nii.gz"]).table, given_scans([str(tmp_path / "a.nii.gz"), "./a.nii.gz"]).table
    assert one["scan_id"].tolist() == two["scan_id"].tolist()
    assert one["path"].tolist() == [str(tmp_path / "a.nii.gz")]


def test_a_folder_without_a_scan_is_one_that_will_fail(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert given_scans([str(tmp_path)]).table["path"].tolist() == [str(tmp_path)]


def test_nothing_and_two_meanings_of_an_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no scan was given"):
        given_scans([])
    for name, path in (("one", "a.nii.gz"), ("two", "b.nii.gz")):
        (tmp_path / f"{name}.csv").write_text(f"scan_id,path\nsame,{path}\n")
    with pytest.raises(CohortError, match="'same'"):
        given_scans([str(tmp_path / "one.csv"), str(tmp_path / "two.csv")])
