"""DICOM files grouped into series, and what their headers may say about them."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from ctplatform.imaging.dicom_headers import index_files, index_folder, merge, quiet_pydicom
from ctplatform.imaging.dicom_writer import write_dicom_series
from tests.ctplatform.scans import chest, edit


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, list[str]]:
    """Two series whose files are mixed in one folder, with files that are no images; and their UIDs."""
    uids = []
    for k in range(2):
        uids.append(write_dicom_series(chest(seed=k), tmp_path / f"part{k}"))
        for file in sorted((tmp_path / f"part{k}").iterdir()):
            (tmp_path / "all").mkdir(exist_ok=True)
            file.rename(tmp_path / "all" / f"{file.stem}-{k}.dcm")
    (tmp_path / "all" / "notes.txt").write_text("no image")
    (tmp_path / "all" / "empty.dcm").write_bytes(b"")
    shutil.copy(tmp_path / "all" / "0001-0.dcm", tmp_path / "all" / ".hidden.dcm")
    return tmp_path / "all", sorted(uids)


def test_files_are_grouped_by_series(mixed):
    folder, uids = mixed
    found = index_folder(folder)
    assert [series.uid for series in found] == uids
    assert [len(series.slices) for series in found] == [20, 20]
    for series in found:
        assert len({s.file for s in series.slices}) == 20
        assert len({s.sop_uid for s in series.slices}) == 20
        assert {s.shape for s in series.slices} == {(26, 30)}
        assert series.modality == "CT"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_merged_parts_are_the_index_of_all_files(mixed, size):
    folder, _ = mixed
    files = sorted(folder.iterdir())
    parts = [index_files(files[i : i + size]) for i in range(0, len(files), size)]
    assert merge(parts) == index_files(files)


def test_positions_and_spacing_are_those_of_the_image(series: Path):
    (found,) = index_folder(series)
    heights = sorted(s.position[2] for s in found.slices)
    np.testing.assert_allclose(np.diff(heights), 11.0, atol=1e-6)
    assert {s.pixel_spacing for s in found.slices} == {(9.5, 8.0)}, "rows first"
    assert {s.orientation for s in found.slices} == {(1, 0, 0, 0, 1, 0)}
    assert found.thickness == 11.0


@pytest.mark.parametrize(
    ("header", "field", "value"),
    [
        ({"ConvolutionKernel": "B30f"}, "kernel", "B30f"),
        ({"ConvolutionKernel": ["B70f", "3"]}, "kernel", "B70f"),
        ({"ConvolutionKernel": "LUNG"}, "kernel", "LUNG"),
        ({"ConvolutionKernel": "Jane Doe"}, "kernel", ""),
        ({"Manufacturer": "SIEMENS Healthineers"}, "manufacturer", "Siemens"),
        ({"Manufacturer": "Hospital of Jane"}, "manufacturer", ""),
        ({"Modality": "JANE"}, "modality", "unknown"),
        ({"SliceThickness": None}, "thickness", None),
    ],
)
def test_only_known_words_leave_the_headers(series: Path, header, field, value):
    edit(series, **header)
    (found,) = index_folder(series)
    assert getattr(found, field) == value


def test_patient_ids_of_two_issuers_differ(series: Path):
    ids = []
    for issuer in ("", "clinic", "other clinic"):
        edit(series, PatientID="7", IssuerOfPatientID=issuer)
        ids.append(index_folder(series)[0].patient_id)
    assert len(set(ids)) == 3
    assert "7" not in str(index_folder(series)[0].source.values())


def test_pydicom_is_quiet_inside_and_as_before_outside(caplog):
    logger = logging.getLogger("pydicom")
    before = logger.level
    with quiet_pydicom(), warnings.catch_warnings(record=True) as caught:
        logger.error("Jane Doe")
        warnings.warn("Jane Doe", stacklevel=1)
    assert "Jane" not in caplog.text
    assert caught == []
    assert logger.level == before
