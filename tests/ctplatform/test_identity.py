"""Who a patient is must stay in the source files, whatever the reader and the discovery say about a scan."""

from __future__ import annotations

import logging
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctplatform.cohort.discovery import discover
from ctplatform.cohort.table import read_cohort, write_cohort
from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_headers import quiet_pydicom
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import content_hash, read_volume
from tests.ctplatform.planted import SECRET, assert_clean, planted
from tests.ctplatform.scans import chest


@pytest.fixture(scope="module")
def planted_series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    with quiet_pydicom():
        write_dicom_series(chest(size_XYZ=(18, 16, 11), padding=-2000), folder, header=planted())
        for k, file in enumerate(sorted(folder.iterdir())):
            data = pydicom.dcmread(file)
            data.private_block(0x0011, SECRET, create=True).add_new(1, "LO", SECRET)
            data.save_as(folder / f"{SECRET}-{k:02d}.dcm")
            file.unlink()
    return folder


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    """Fails where a planted text got to the terminal, into a log or into a warning."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    streams = capfd.readouterr()
    logged = [record.getMessage() for record in caplog.get_records("call")]
    assert_clean(streams.out, streams.err, *logged, *(str(w.message) for w in caught))


def test_the_dictionary_is_planted_widely() -> None:
    header = planted()
    assert len(header) > 1000
    assert {"PatientName", "PatientID", "AccessionNumber", "PatientBirthDate", "PatientComments"} <= set(
        header
    )
    assert {"InstitutionName", "Manufacturer", "ConvolutionKernel", "StudyDescription"} <= set(header)


@pytest.mark.usefixtures("quiet")
def test_a_series_with_identifiers_everywhere(planted_series: Path, tmp_path: Path) -> None:
    folder = tmp_path / SECRET / "study"
    shutil.copytree(planted_series, folder)
    volume = read_volume(folder)
    assert len(volume.notes) == 2, "padding and tilt"
    image_keys = [volume.image.GetMetaData(k) for k in volume.image.GetMetaDataKeys()]
    assert_clean(volume.source, list(volume.notes), content_hash(volume), image_keys)
    assert_clean(pickle.dumps(volume))

    found = discover(tmp_path, csv_path=tmp_path / "cohort.csv")
    write_cohort(found.table, tmp_path / "cohort.csv")
    assert len(found.table) == 1
    assert found.table["subject_id"][0].startswith("sub-")
    assert_clean(found.table.drop(columns="path").to_csv(), (tmp_path / "cohort.key").read_bytes())
    assert_clean(read_cohort(tmp_path / "cohort.csv").drop(columns="path").to_csv())
    assert str(folder) in (tmp_path / "cohort.csv").read_text(), "the path column must lead to the scan"


def set_all(folder: Path, **header: object) -> None:
    with quiet_pydicom():
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            for keyword, value in header.items():
                setattr(data, keyword, value)
            data.save_as(file)


def first(folder: Path) -> Path:
    return sorted(folder.glob("*.dcm"))[0]


def truncate(folder: Path) -> None:
    first(folder).write_bytes(first(folder).read_bytes()[:-300])


def turn_one(folder: Path) -> None:
    (folder / "one").mkdir()
    first(folder).rename(folder / "one" / "x.dcm")
    set_all(folder / "one", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    (folder / "one" / "x.dcm").rename(folder / "x.dcm")
    (folder / "one").rmdir()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("code", "harm"),
    [
        ("wrong-modality", lambda folder: set_all(folder, Modality="MR")),
        ("wrong-modality", lambda folder: set_all(folder, Modality=SECRET)),
        ("missing-slice", lambda folder: sorted(folder.iterdir())[7].unlink()),
        ("truncated", truncate),
        ("mixed-orientation", turn_one),
        ("not-hu", lambda folder: set_all(folder, RescaleIntercept=0)),
        ("no-images", lambda folder: [file.write_text(SECRET) for file in folder.iterdir()]),
    ],
)
def test_errors_name_nobody(
    planted_series: Path, tmp_path: Path, code: str, harm: Callable[[Path], object]
) -> None:
    folder = tmp_path / SECRET
    shutil.copytree(planted_series, folder)
    harm(folder)
    with pytest.raises(ScanError) as caught:
        read_volume(folder)
    assert caught.value.code == code
    assert_clean(str(caught.value), pickle.dumps(caught.value))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd"])
@pytest.mark.parametrize("harm", ["none", "text", "truncated", "mask", "missing"])
def test_files_with_identifiers_in_name_and_header(tmp_path: Path, suffix: str, harm: str) -> None:
    path = tmp_path / SECRET / f"{SECRET}^JANE.{suffix}"
    path.parent.mkdir()
    image = chest() if harm != "mask" else sitk.Cast(chest() < -500, sitk.sitkInt16)
    if suffix.startswith("nii"):
        nifti = nib.Nifti1Image(sitk.GetArrayFromImage(image).T, np.diag([-8.0, -9.5, 11.0, 1.0]))
        for field in ("descrip", "db_name", "aux_file", "intent_name"):
            nifti.header[field] = SECRET.encode()
        nifti.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET.encode()))
        nib.save(nifti, path)
    else:
        for key in ("PatientName", "Comment", "0010|0010"):
            image.SetMetaData(key, SECRET)
        sitk.WriteImage(image, str(path))
    if harm == "text":
        path.write_text(SECRET)
    elif harm == "truncated":
        for file in path.parent.iterdir():
            file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 5])
    elif harm == "missing":
        path.unlink()
    if harm == "none":
        volume = read_volume(path)
        assert_clean(volume.source, list(volume.notes), list(volume.image.GetMetaDataKeys()))
        assert_clean(discover(tmp_path).table.drop(columns="path").to_csv())
    else:
        with pytest.raises(ScanError) as caught:
            read_volume(path)
        assert_clean(str(caught.value), pickle.dumps(caught.value))
