"""Scans that occur twice are found, by the voxels where formats differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import SimpleITK as sitk

from ctplatform.cohort.discovery import discover
from ctplatform.cohort.repeated_scans import may_be_same, same_voxels, without_repeated
from ctplatform.cohort.scan_rules import (
    FoundScan,
    SearchOptions,
    scans_of_folder,
)
from ctplatform.imaging.dicom_writer import write_dicom_series
from tests.ctplatform.scans import chest


class TestDiscover:
    def found(self, folder: Path, **options) -> tuple[dict[str, pd.Series], list[str]]:
        result = discover(folder, **options)
        rows = {Path(row["path"]).relative_to(folder).as_posix(): row for _, row in result.table.iterrows()}
        return rows, result.passed_over

    def test_the_same_scan_twice_counts_once(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "b-series")
        shutil.copytree(tmp_path / "b-series", tmp_path / "copy")
        sitk.WriteImage(
            sitk.DICOMOrient(chest(), "RAS"), str(tmp_path / "a.nii.gz")
        )  # the same scan, converted
        sitk.WriteImage(chest(seed=2), str(tmp_path / "c.nii.gz"))
        shutil.copy(tmp_path / "c.nii.gz", tmp_path / "d.nii.gz")
        sitk.WriteImage(chest(seed=3), str(tmp_path / "e.nrrd"))  # the same grid, another scan
        rows, passed = self.found(tmp_path)
        assert set(rows) == {"b-series", "c.nii.gz", "e.nrrd"}
        assert sorted(passed) == [
            "a.nii.gz: the same scan as b-series",
            "copy: the same scan as b-series",
            "d.nii.gz: the same scan as c.nii.gz",
        ]


def options(root: Path, *, every_series: bool = False) -> SearchOptions:
    return SearchOptions(root, b"k" * 32, every_series)


def test_series_and_volume_file_of_one_scan_have_one_grid(tmp_path: Path) -> None:
    write_dicom_series(chest(), tmp_path / "a")
    for code in ("LPS", "SAR", "PIR"):
        sitk.WriteImage(sitk.DICOMOrient(chest(), code), str(tmp_path / f"{code}.nii"))
    names = sorted(p.name for p in tmp_path.iterdir() if p.is_file())
    files = scans_of_folder(options(tmp_path), tmp_path, names).scans
    (series,) = scans_of_folder(
        options(tmp_path), tmp_path / "a", sorted(p.name for p in (tmp_path / "a").iterdir())
    )[0]
    assert len(files) == 3
    for scan in files:
        assert may_be_same(scan, series)
        assert same_voxels(scan, series)
        assert not may_be_same(scan, files[0]), "one format"
    moved = chest()
    moved.SetOrigin((0.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(tmp_path / "moved.nii"))
    (other,) = scans_of_folder(options(tmp_path), tmp_path, ["moved.nii"]).scans
    assert not may_be_same(other, series)


def test_duplicates_are_compared_only_where_they_may_be_the_same(tmp_path: Path) -> None:
    write_dicom_series(chest(), tmp_path / "a")
    sitk.WriteImage(chest(seed=1), str(tmp_path / "same grid.nii"))
    sitk.WriteImage(chest(size_XYZ=(31, 26, 20)), str(tmp_path / "other grid.nii"))
    scans = [
        *scans_of_folder(options(tmp_path), tmp_path, ["same grid.nii", "other grid.nii"]).scans,
        *scans_of_folder(
            options(tmp_path), tmp_path / "a", sorted(p.name for p in (tmp_path / "a").iterdir())
        ).scans,
    ]
    compared: list[str] = []

    def same(one: FoundScan, other: FoundScan) -> bool:
        compared.append(one.path.name)
        return True

    before = list(scans)
    unique = without_repeated(scans, tmp_path, same=same)
    assert compared == ["same grid.nii"]
    assert [scan.path.name for scan in unique.scans] == ["a", "other grid.nii"]
    assert unique.passed_over == ["same grid.nii: the same scan as a"]
    assert scans == before, "the argument is unchanged"
