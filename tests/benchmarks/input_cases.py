"""Inputs that are more than one header: trees of series, and scans whose anatomy contradicts their header."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from ctplatform.cohort.discovery import Discovery, discover
from ctplatform.config.preparation import LungsConfig, QualityConfig
from ctplatform.errors import CohortError, ScanError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.label_map import read_label_map
from ctplatform.imaging.volume import content_hash, read_volume
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.preparation.quality import Verdict, assess, measure
from tests.ctplatform.preparation.phantoms import phantom_scan
from tests.ctplatform.scans import abdomen, array, chest, edit, with_array

GITHUB = "https://github.com/"


class Case(NamedTuple):
    """One input: what is right, who reported the like of it, and what comes out.

    Attributes:
        report: public report of users of another tool, below `GITHUB`; empty where it was found here.
        run: makes the input in a folder; returns what comes out, and whether that is right.
    """

    name: str
    right: str
    report: str
    run: Callable[[Path], tuple[str, bool]]


CASES: list[Case] = []


def case(
    name: str, right: str, report: str = ""
) -> Callable[[Callable[[Path], tuple[str, bool]]], Callable[[Path], tuple[str, bool]]]:
    """Register a case."""

    def register(run: Callable[[Path], tuple[str, bool]]) -> Callable[[Path], tuple[str, bool]]:
        CASES.append(Case(name, right, report, run))
        return run

    return register


def found(folder: Path) -> Discovery | None:
    """What `drasclr cohort` finds; None where it finds nothing."""
    try:
        return discover(folder)
    except CohortError:
        return None


def counts(result: Discovery | None) -> tuple[int, int]:
    """Scans and subjects."""
    return (0, 0) if result is None else (len(result.table), int(result.table["subject_id"].nunique()))


def said(scans: int, subjects: int) -> str:
    return f"{scans} scan(s), {subjects} subject(s)"


@case("one series over two folders", "one scan, the whole")
def two_folders(folder: Path) -> tuple[str, bool]:
    (folder / "t").mkdir()
    write_dicom_series(chest(), folder / "t" / "a")
    whole = content_hash(read_volume(folder / "t" / "a"))
    (folder / "t" / "b").mkdir()
    for file in sorted((folder / "t" / "a").iterdir())[1::2]:
        file.rename(folder / "t" / "b" / file.name)
    result = found(folder / "t")
    scans, subjects = counts(result)
    same = result is not None and content_hash(read_volume(result.table["path"][0])) == whole
    return f"{said(scans, subjects)}{', the whole' * same}", (scans, same) == (1, True)


@case("four people with one SeriesInstanceUID", "four scans of four subjects")
def one_uid(folder: Path) -> tuple[str, bool]:
    for k in range(4):
        header = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "PatientID": f"P{k}"}
        write_dicom_series(chest(seed=k), folder / str(k), header=header)
    result = counts(found(folder))
    return said(*result), result == (4, 4)


@case(
    "two acquisitions of one series, a folder each",
    "two scans of one subject",
    "Slicer/Slicer/pull/4801",
)
def two_acquisitions(folder: Path) -> tuple[str, bool]:
    for k in (1, 2):
        header = {
            "SeriesInstanceUID": "1.2.3",
            "StudyInstanceUID": "1.2",
            "PatientID": "P",
            "AcquisitionNumber": k,
        }
        write_dicom_series(chest(seed=k), folder / str(k), header=header)
    result = counts(found(folder))
    return said(*result), result == (2, 1)


@case("two kernels and a MIP of one study, a folder each", "one scan")
def study_folders(folder: Path) -> tuple[str, bool]:
    patient = {"PatientID": "P"}
    for k, kernel in enumerate(("B30f", "B70f", "B30f")):
        kind = "MIP" if k == 2 else "AXIAL"
        header = {"ConvolutionKernel": kernel, "ImageType": ["DERIVED", "SECONDARY", kind]}
        write_dicom_series(chest(seed=k), folder / str(k), patient=patient, header=header)
    result = counts(found(folder))
    return said(*result), result == (1, 1)


@case("a PatientID such as REMOVED for all", "a subject a folder, and a note")
def placeholder(folder: Path) -> tuple[str, bool]:
    for k in range(3):
        write_dicom_series(chest(seed=k), folder / str(k), header={"PatientID": "REMOVED"})
    result = found(folder)
    noted = result is not None and any("placeholder" in note for note in result.notes)
    return f"{said(*counts(result))}{', noted' * noted}", counts(result) == (3, 3) and noted


@case("one odd header in a tree", "the other scan, and a line for this one")
def odd_header(folder: Path) -> tuple[str, bool]:
    write_dicom_series(chest(), folder / "good")
    write_dicom_series(chest(seed=1), folder / "odd")
    file = sorted((folder / "odd").iterdir())[5]
    data = file.read_bytes()
    uid = b"1.2.840.10008.1.2.1\0"
    file.write_bytes(data.replace(uid, b"1.2.840.113619.5.2\0\0", 1))
    result = found(folder)
    passed = 0 if result is None else len(result.passed_over)
    return f"{said(*counts(result))}, {passed} line(s)", counts(result)[0] == 1 and passed == 1


def _study(folder: Path, image: sitk.Image, name: str, **header: object) -> None:
    write_dicom_series(image, folder / name, patient={"PatientID": "P"}, header=header, series=name)
    for file in sorted((folder / name).iterdir()):
        file.rename(folder / f"{name}-{file.name}")
    (folder / name).rmdir()


@case("chest, and a longer abdomen that says so", "the chest")
def named_abdomen(folder: Path) -> tuple[str, bool]:
    _study(folder, chest(), "c", BodyPartExamined="CHEST")
    _study(folder, abdomen(), "a", BodyPartExamined="ABDOMEN")
    right = np.array_equal(array(read_volume(folder).image), array(chest()))
    return "the chest" if right else "the abdomen", right


@case("chest, and a longer abdomen, of which no header says what it is", "the chest")
def unnamed_abdomen(folder: Path) -> tuple[str, bool]:
    _study(folder, chest(), "c")
    _study(folder, abdomen(), "a")
    right = np.array_equal(array(read_volume(folder).image), array(chest()))
    return "the chest" if right else "the abdomen", right


@case("a MIP alone in its folder", "refused: a projection")
def projection(folder: Path) -> tuple[str, bool]:
    write_dicom_series(chest(), folder / "m")
    edit(folder / "m", ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"])
    return _refusal(folder / "m", "projection")


def _refusal(path: Path, code: str) -> tuple[str, bool]:
    try:
        read_volume(path)
    except ScanError as error:
        return f"refused: {error.code}", error.code == code
    return "read", False


@case(
    "a label map with the header of its scan, sform code 2, or no code",
    "voxel on voxel",
    "nipy/nibabel/issues/863",
)
def label_map(folder: Path) -> tuple[str, bool]:
    import nibabel as nib

    hu = array(chest())
    for code in (0, 2, 4):
        for name, values in (("scan", hu), ("map", (hu < -700).astype(np.int16))):
            image = nib.Nifti1Image(values.T, None)
            image.set_sform(np.diag([-8.0, -9.5, 11.0, 1.0]) if code else None, code)
            image.set_qform(None, 0)
            image.header["pixdim"][1:4] = (8.0, 9.5, 11.0)
            nib.save(image, folder / f"{name}{code}.nii.gz")
        scan = read_volume(folder / f"scan{code}.nii.gz").image
        labels = read_label_map(str(folder / f"map{code}.nii.gz"), {"dark": 1, "bright": 0})
        placed = sitk.Resample(labels, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8)
        if not np.array_equal(array(placed) == 1, array(scan) < -700):
            return f"elsewhere, with code {code}", False
    return "voxel on voxel", True


def verdict(image: sitk.Image, air_hu: float = np.nan) -> Verdict:
    """Of a scan that was masked and not registered."""
    from ctplatform.imaging.volume import Volume

    mask = make_segmenter(LungsConfig.model_validate({}))(image)
    measures = measure(Volume(image, (), {}, air_hu), mask, None, None)
    return assess(measures, QualityConfig.model_validate({}), notes=mask.notes)


@case("air 100 HU too dark", "rejected: not HU")
def too_dark(folder: Path) -> tuple[str, bool]:
    image = phantom_scan(0)
    sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16) - 100, str(folder / "a.nii.gz"))
    volume = read_volume(folder / "a.nii.gz")
    seen = verdict(volume.image, volume.air_hu)
    right = seen.state == "rejected" and "not HU" in seen.reasons[0]
    return f"{seen.state}: {seen.reasons[0] if seen.reasons else ''}", right


def _reversal(axis: int, word: str) -> Callable[[Path], tuple[str, bool]]:
    def run(folder: Path) -> tuple[str, bool]:
        image = phantom_scan(0)
        sitk.WriteImage(with_array(image, np.flip(array(image), 2 - axis)), str(folder / "a.nii.gz"))
        seen = verdict(read_volume(folder / "a.nii.gz").image)
        named = any(word in reason for reason in seen.reasons)
        return f"{seen.state}, {word if named else 'no axis'}", seen.state != "accepted" and named

    return run


for _axis, _word, _report in (
    (0, "mirrored left-right", "rordenlab/dcm2niix/issues/718"),
    (1, "front to back", "wasserth/TotalSegmentator/pull/598"),
    (2, "upside down", "pyushkevich/itksnap/issues/87"),
):
    CASES.append(
        Case(
            f"voxels reversed: {_word}",
            "flagged or rejected, the axis named",
            _report,
            _reversal(_axis, _word),
        )
    )
