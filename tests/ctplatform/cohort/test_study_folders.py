"""One scan a study where each series lies in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from ctplatform.cohort.discovery import Discovery, discover
from ctplatform.imaging.dicom_writer import write_dicom_series
from tests.ctplatform.scans import abdomen, chest

PERSON = {"PatientID": "P-1"}


def places(found: Discovery, root: Path) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in found.table["path"]]


def test_of_two_kernels_in_sibling_folders_the_smooth_one_is_the_scan(tmp_path: Path) -> None:
    for k, kernel in enumerate(("B70f", "B30f")):
        header = {"ConvolutionKernel": kernel}
        write_dicom_series(chest(seed=k), tmp_path / kernel, patient=PERSON, header=header)
    found = discover(tmp_path)
    assert places(found, tmp_path) == ["B30f"]
    assert found.passed_over == [
        "B70f: CT series of 20 image(s): sharper kernel than another series of the study (B30f)"
    ]
    assert places(discover(tmp_path, every_series=True), tmp_path) == ["B30f", "B70f"]


def test_the_chest_in_one_folder_the_abdomen_in_the_other(tmp_path: Path) -> None:
    write_dicom_series(abdomen(), tmp_path / "1", patient=PERSON)
    write_dicom_series(chest(), tmp_path / "2", patient=PERSON)
    assert places(discover(tmp_path), tmp_path) == ["2"]


def test_other_studies_people_and_acquisitions_stay(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "1.2.3"}
    write_dicom_series(chest(seed=0), tmp_path / "visit 1", patient=PERSON | {"StudyDate": "20200101"})
    write_dicom_series(chest(seed=1), tmp_path / "visit 2", patient=PERSON | {"StudyDate": "20210101"})
    for k, person in enumerate(("P-2", "P-3", "REMOVED", "REMOVED")):
        header = study | {"PatientID": person}
        write_dicom_series(chest(seed=2 + k), tmp_path / f"same study {k}", header=header)
    for k in (1, 2):
        header = study | {"PatientID": "P-4", "SeriesInstanceUID": "1.2.9", "AcquisitionNumber": k}
        write_dicom_series(chest(seed=9 + k), tmp_path / f"acquisition {k}", header=header)
    assert len(discover(tmp_path).table) == 8
