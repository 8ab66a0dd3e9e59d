"""Pseudonyms of subjects and their key."""

from __future__ import annotations

import hmac
import shutil
import stat
from pathlib import Path

import pytest

from ctplatform.cohort.discovery import discover
from ctplatform.cohort.pseudonyms import (
    is_placeholder,
    pseudonym,
    read_or_make_key,
    temporary_key,
)
from ctplatform.errors import CohortError
from ctplatform.imaging.dicom_writer import write_dicom_series
from tests.ctplatform.scans import chest


class TestSubjects:
    def test_pseudonyms_last_as_long_as_the_key(self, tmp_path: Path) -> None:
        for k, patient in enumerate(("P-1 ", "p-1", "P-2", "", "ANONYMOUS")):
            header = {"PatientID": patient}
            write_dicom_series(chest(seed=k), tmp_path / "in" / str(k), header=header)
        first = discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv").table
        assert first["subject_id"][0] == first["subject_id"][1] != first["subject_id"][2]
        assert list(first["subject_id"][3:]) == list(first["scan_id"][3:])
        again = discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv").table
        assert again.equals(first)
        key = tmp_path / "cohort.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        key.unlink()
        other = discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv").table
        assert not set(other["subject_id"][:3]) & set(first["subject_id"])
        assert list(other["scan_id"]) == list(first["scan_id"])

    def test_a_placeholder_is_no_person(self, tmp_path: Path) -> None:
        """Scans with one placeholder are those of their folder, not of one person, and that is said."""
        for k, place in enumerate(("x/1", "x/2", "y", "y", "")):
            write_dicom_series(
                chest(seed=k), tmp_path / str(k), header={"PatientID": "REMOVED" if k else "00000"}
            )
            (tmp_path / "in" / place).mkdir(parents=True, exist_ok=True)
            for file in (tmp_path / str(k)).iterdir():
                file.rename(tmp_path / "in" / place / f"{k}-{file.name}")
        found = discover(tmp_path / "in")
        assert found.table["subject_id"].nunique() == 4
        assert found.table.groupby("subject_id").size().max() == 2
        (note,) = found.notes
        assert note.startswith("the PatientID of 5 of 5 scan(s) is missing or a placeholder")
        assert "(4 in all)" in note

    def test_one_patient_id_for_all_is_said(self, tmp_path: Path) -> None:
        for k in range(4):
            write_dicom_series(chest(seed=k), tmp_path / str(k), header={"PatientID": "CASE"})
        (note,) = discover(tmp_path).notes
        assert note.startswith("all 4 DICOM scans have the same PatientID")
        shutil.rmtree(tmp_path / "3")
        assert not discover(tmp_path).notes

    def test_a_key_file_that_holds_none_is_not_overwritten(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "in")
        (tmp_path / "cohort.key").write_text("my house key")
        with pytest.raises(CohortError, match="no pseudonym key"):
            discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv")
        assert (tmp_path / "cohort.key").read_text() == "my house key"


def test_pseudonyms_are_those_of_rfc_2104() -> None:
    key = bytes(range(32))
    digest = hmac.new(key, b"P 1", "sha256").hexdigest()
    for patient in ("P 1", " p  1 ", "p 1\n"):
        assert pseudonym(patient, key=key) == f"sub-{digest[:12]}"
    assert pseudonym("P 1", key=temporary_key()) != pseudonym("P 1", key=temporary_key())


@pytest.mark.parametrize(
    ("patient_id", "expected"),
    [
        *(
            (word, True)
            for word in ("", " 0 ", "000", "REMOVED", "De-Identified", "anonymous", "XXXX", "n/a", "***")
        ),
        *((word, True) for word in ("Hospital\nANON", "<unknown>", "99999")),
        *(
            (word, True)
            for word in (
                "ANON^ANON",
                "000-000",
                "No Name",
                "Anonymised^Patient",
                "DOE^JOHN",
                "PatientID removed",
            )
        ),
        *((word, True) for word in ("nnn", "111111", "1234567", "xx-xx", "...", "anonyme")),
        *((word, False) for word in ("Patient 1", "Anon 7", "John", "111", "12345", "234", "aa", "TEST3")),
        *((word, False) for word in ("1", "P-0", "ANON-001", "Hospital\n7", "X1", "removed3", "99", "100")),
    ],
)
def test_placeholders(patient_id: str, expected: bool) -> None:
    assert is_placeholder(patient_id) is expected


def test_a_key_is_made_once(tmp_path: Path) -> None:
    first = read_or_make_key(tmp_path / "new" / "cohort.key")
    assert len(first) == 32
    assert read_or_make_key(tmp_path / "new" / "cohort.key") == first
    assert read_or_make_key(tmp_path / "other.key") != first
    with pytest.raises(CohortError, match="cannot be written"):
        read_or_make_key(tmp_path / "other.key" / "below a file")
