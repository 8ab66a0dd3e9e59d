"""The scans below a folder, as a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import SimpleITK as sitk

from ctplatform.cohort.discovery import discover
from ctplatform.cohort.table import read_cohort, write_cohort
from ctplatform.errors import CohortError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import REAL_CT, chest, needs_real_ct, with_array


class TestDiscover:
    def found(self, folder: Path, **options) -> tuple[dict[str, pd.Series], list[str]]:
        result = discover(folder, **options)
        rows = {Path(row["path"]).relative_to(folder).as_posix(): row for _, row in result.table.iterrows()}
        return rows, result.passed_over

    def test_volumes_and_series_at_any_depth(self, tmp_path: Path) -> None:
        for k, suffix in enumerate(("nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd")):
            (tmp_path / suffix / "deep").mkdir(parents=True)
            sitk.WriteImage(chest(seed=k), str(tmp_path / suffix / "deep" / f"scan.{suffix}"))
        write_dicom_series(chest(seed=9), tmp_path / "dicom" / "x")
        rows, passed = self.found(tmp_path)
        assert set(rows) == {
            f"{s}/deep/scan.{s}" for s in ("nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd")
        } | {"dicom/x"}
        assert len({row["scan_id"] for row in rows.values()}) == 7
        assert passed == []
        for row in rows.values():
            assert read_volume(row["path"], series_uid=row["series_uid"] or None).image.GetSize() == (
                30,
                26,
                20,
            )

    def test_nothing_found(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(CohortError, match=r"notes\.txt"):
            discover(tmp_path)
        with pytest.raises(CohortError, match="there is no folder"):
            discover(tmp_path / "none")

    def test_found_is_written_and_read(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "in" / "a", patient={"PatientID": "p"})
        sitk.WriteImage(
            with_array(chest(), sitk.GetArrayFromImage(chest(seed=4))), str(tmp_path / "in" / "b.mha")
        )
        found = discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv").table
        write_cohort(found, tmp_path / "cohort.csv")
        assert read_cohort(tmp_path / "cohort.csv").equals(found)


@needs_real_ct
@pytest.mark.real_ct
def test_real_tree(tmp_path: Path) -> None:
    result = discover(REAL_CT, csv_path=tmp_path / "cohort.csv")
    places = {Path(p).relative_to(REAL_CT).as_posix() for p in result.table["path"]}
    assert places == {
        "4dlung_113/dicom",
        "cip_ct64/ct-64Dicom",
        "lidc_0001/cxr.nii.gz",
        "lung_dx_a0001/dicom",
        "lung_dx_a0002/dicom",
        "partial_apex_lungfcp/dicom",
        "partial_bases_crlm1004/dicom",
        "pyradiomics_lung/lung1_image.nrrd",
        "pyradiomics_lung/lung2_image.nrrd",
    }
    passed = "\n".join(result.passed_over)
    assert "cip_ct64/ct-64.nrrd: the same scan as cip_ct64/ct-64Dicom" in passed
    for name in ("mask.nii.gz", "lung1_label.nrrd", "lung2_label.nrrd", "License.txt", "README.md"):
        assert name in passed
