"""Which files are scans, and which series is the one of its study."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from ctplatform.cohort.discovery import discover
from ctplatform.cohort.scan_rules import (
    SearchOptions,
    scans_of_folder,
    scans_of_headers,
)
from ctplatform.imaging.dicom_headers import index_folder
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import chest


def thick(image: sitk.Image, *, factor: int) -> sitk.Image:
    return sitk.BinShrink(image, (1, 1, factor))


class TestDiscover:
    def found(self, folder: Path, **options) -> tuple[dict[str, pd.Series], list[str]]:
        result = discover(folder, **options)
        rows = {Path(row["path"]).relative_to(folder).as_posix(): row for _, row in result.table.iterrows()}
        return rows, result.passed_over

    def test_what_is_no_scan_is_passed_over_with_the_reason(self, tmp_path: Path) -> None:
        image, lungs = chest(), chest() < -500
        sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
        sitk.WriteImage(lungs, str(tmp_path / "plain.nii.gz"))
        sitk.WriteImage(sitk.Cast(lungs, sitk.sitkInt16), str(tmp_path / "ct_lung_mask.nii.gz"))
        empty = np.zeros((60, 60, 60), np.int16)
        empty[20:30, 20:30, 20:30] = 3
        sitk.WriteImage(sitk.GetImageFromArray(empty), str(tmp_path / "lobes16.nrrd"))
        sitk.WriteImage(sitk.GetImageFromArray(empty), str(tmp_path / "unpacked.mha"))
        sitk.WriteImage(image[:, :, 3], str(tmp_path / "flat.nii.gz"))
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / "time.nii.gz"))
        (tmp_path / "text.nii.gz").write_text("hello")
        (tmp_path / "LICENSE").write_text("free")
        (tmp_path / "labels.csv").write_text("a,b")
        write_dicom_series(image, tmp_path / "mr", header={"Modality": "MR"})
        write_dicom_series(image, tmp_path / "gap")
        (tmp_path / "gap" / "0008.dcm").unlink()
        rows, passed = self.found(tmp_path)
        assert set(rows) == {"ct.nii.gz"}
        expected = {
            "plain.nii.gz": "label map",
            "ct_lung_mask.nii.gz": "label map",
            "lobes16.nrrd": "label map",
            "unpacked.mha": "label map",
            "flat.nii.gz": "not a volume",
            "time.nii.gz": "4 dimensions",
            "text.nii.gz": "no NIfTI",
            ".": "2 file(s) that are no CT volume (LICENSE, labels.csv)",
            "mr": "modality is MR",
            "gap": "1 slice(s) are missing",
        }
        lines = dict(line.split(": ", 1) for line in passed)
        assert set(lines) == set(expected)
        for place, reason in expected.items():
            assert reason in lines[place]

    def test_the_best_series_of_a_study(self, tmp_path: Path) -> None:
        """One folder, one study: the axial series of thin slices and smooth kernel is taken, the rest explained."""
        patient = {"PatientID": "p", "StudyInstanceUID": "1.2.3"}
        fine = sitk.Expand(chest(size_XYZ=(12, 12, 12)), (1, 1, 4))
        sagittal = sitk.PermuteAxes(chest(size_XYZ=(12, 12, 12)), (1, 2, 0))
        derived = {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}
        written = {
            "good": write_dicom_series(
                fine, tmp_path / "good", patient=patient, header={"ConvolutionKernel": "B30f"}
            ),
            "sharp": write_dicom_series(
                fine, tmp_path / "sharp", patient=patient, series="2", header={"ConvolutionKernel": "B70f"}
            ),
            "thick": write_dicom_series(thick(fine, factor=4), tmp_path / "thick", patient=patient),
            "short": write_dicom_series(fine[:, :, :30], tmp_path / "short", patient=patient),
            "derived": write_dicom_series(
                fine, tmp_path / "derived", patient=patient, series="3", header=derived
            ),
            "sagittal": write_dicom_series(sagittal, tmp_path / "sagittal", patient=patient),
            "scout": write_dicom_series(
                fine[:, :, :10],
                tmp_path / "scout",
                patient=patient,
                header={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
            ),
        }
        (tmp_path / "all").mkdir()
        for name in written:
            for file in (tmp_path / name).iterdir():
                file.rename(tmp_path / "all" / f"{name}-{file.name}")
        result = discover(tmp_path)
        assert list(result.table["series_uid"]) == [written["good"]]
        reasons = " | ".join(result.passed_over)
        assert len(result.passed_over) == 6
        for reason in (
            "sharper kernel",
            "thicker slices",
            "shorter coverage",
            "derived",
            "not axial",
            "localizers",
        ):
            assert reason in reasons
        volume = read_volume(tmp_path / "all")
        assert volume.image.GetSize() == fine.GetSize()
        assert volume.source["kernel"] == "B30f"
        every = discover(tmp_path, every_series=True).table
        assert set(every["series_uid"]) == {
            written[n] for n in ("good", "sharp", "thick", "short", "derived")
        }
        assert len(set(every["subject_id"])) == 1

    def test_studies_in_one_folder_are_scans_each(self, tmp_path: Path) -> None:
        for k in range(3):
            write_dicom_series(
                chest(seed=k), tmp_path / str(k), patient={"PatientID": f"p{k % 2}", "StudyID": str(k)}
            )
            for file in (tmp_path / str(k)).iterdir():
                file.rename(tmp_path / f"{k}-{file.name}")
        found = discover(tmp_path).table
        assert len(found) == 3
        assert len(set(found["scan_id"])) == 3
        assert sorted(found.groupby("subject_id").size()) == [1, 2]

    def test_scan_ids_follow_the_scan_not_the_place(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "one" / "a")
        sitk.WriteImage(chest(seed=2), str(tmp_path / "one" / "a.nii.gz"))
        before = discover(tmp_path).table
        shutil.move(tmp_path / "one", tmp_path / "two")
        (tmp_path / "two" / "a.nii.gz").rename(tmp_path / "two" / "z.nii.gz")
        after = discover(tmp_path).table
        assert set(before["scan_id"]) == set(after["scan_id"])
        assert all(scan_id.startswith("ct-") and len(scan_id) == 13 for scan_id in after["scan_id"])


def options(root: Path, *, every_series: bool = False) -> SearchOptions:
    return SearchOptions(root, b"k" * 32, every_series)


def test_a_folder_with_known_headers_gives_the_same_scans(tmp_path: Path) -> None:
    write_dicom_series(chest(), tmp_path, patient={"PatientID": "p"})
    sitk.WriteImage(chest(seed=1), str(tmp_path / "b.nii.gz"))
    (tmp_path / "notes.txt").write_text("x")
    names = sorted(p.name for p in tmp_path.iterdir())
    found = scans_of_folder(options(tmp_path), tmp_path, names)
    headers = index_folder(tmp_path)
    assert scans_of_headers(options(tmp_path), tmp_path, names, headers) == found
    assert [scan.form for scan in found.scans] == [".nii.gz", "DICOM"]
    assert found.passed_over == [".: 1 file(s) that are no CT volume (notes.txt)"]
