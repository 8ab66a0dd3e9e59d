"""Pseudonyms of subjects and their key."""

from __future__ import annotations

import hmac
import stat
from pathlib import Path

import pytest

from ctplatform.cohort.discovery import discover
from ctplatform.cohort.pseudonyms import pseudonym, read_or_make_key, temporary_key
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


def test_a_key_is_made_once(tmp_path: Path) -> None:
    first = read_or_make_key(tmp_path / "new" / "cohort.key")
    assert len(first) == 32
    assert read_or_make_key(tmp_path / "new" / "cohort.key") == first
    assert read_or_make_key(tmp_path / "other.key") != first
    with pytest.raises(CohortError, match="cannot be written"):
        read_or_make_key(tmp_path / "other.key" / "below a file")
