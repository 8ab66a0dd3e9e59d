"""A cohort in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from ctplatform.phantom import (
    PhantomSubject,
    generate_subject,
    write_cohort_files,
)
from ctplatform.phantom.files import LABEL_MAPS
from tests.ctplatform.phantom.reading import CONFIG, lps


def test_written_equals_made(cohort: tuple[Path, pd.DataFrame], subjects: list[PhantomSubject]) -> None:
    folder, table = cohort
    assert table["scan_id"].tolist() == [s.scan_id for s in subjects[:4]]
    for row, subject in zip(table.to_dict("records"), subjects):
        path = Path(row["path"])
        if path.is_dir():
            reader = sitk.ImageSeriesReader()
            names = reader.GetGDCMSeriesFileNames(str(path), row["series_uid"])
            assert names
            reader.SetFileNames(names)
            image = reader.Execute()
        else:
            image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(lps(image), lps(subject.image))
        want = sitk.DICOMOrient(subject.image, "LPS")
        got = sitk.DICOMOrient(image, "LPS")
        np.testing.assert_allclose(got.GetOrigin(), want.GetOrigin(), atol=1e-2)
        np.testing.assert_allclose(got.GetDirection(), want.GetDirection(), atol=1e-4)
        lungs = sitk.ReadImage(str(folder / "truth" / f"{row['scan_id']}-lungs.nii.gz"))
        np.testing.assert_array_equal(lps(lungs), lps(subject.lungs))


def test_cohort_holds_nifti_and_dicom_and_relative_paths(cohort: tuple[Path, pd.DataFrame]) -> None:
    folder, table = cohort
    assert [Path(p).is_dir() for p in table["path"]] == [False, False, False, True]
    stored = pd.read_csv(folder / "cohort.csv", dtype={"series_uid": str})
    assert not any(Path(p).is_absolute() for p in stored["path"])
    assert all((folder / p).exists() for p in stored["path"])
    labels = ["emphysema_extent", "fev1pp", "gold_stage", "survival_days", "death"]
    pd.testing.assert_frame_equal(stored[labels], table[labels])


def test_subjects_written_one_by_one_make_the_same_cohort(
    cohort: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    folder, table = cohort
    rows = [generate_subject(tmp_path, i, CONFIG) for i in (1, 0)]
    apart = write_cohort_files(tmp_path, rows)
    places = ["path", *LABEL_MAPS]
    pd.testing.assert_frame_equal(apart.drop(columns=places), table.iloc[:2].drop(columns=places))
    name = Path("scans") / "phantom-0001.nii.gz"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
