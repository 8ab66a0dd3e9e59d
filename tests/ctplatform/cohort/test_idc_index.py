"""Reading the index: SQL conditions, and what is wrong with a file or a request."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from ctplatform.cohort.idc import public_cohort
from ctplatform.cohort.idc_index import index_file
from ctplatform.cohort.idc_selection import Choice
from ctplatform.errors import CohortError
from tests.ctplatform.cohort.idc_rows import chosen, series, text, write


def test_an_sql_condition(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    rows = [series(1, "p", "s", text("B30f")), series(2, "q", "t", text("B30f", "5"), PatientSex="M")]
    assert chosen(rows, tmp_path, where="PatientSex = 'M'") == ([2], {"excluded by --where": 1})
    assert chosen(rows, tmp_path, where="slice_thickness_mm < 3 AND kernel LIKE 'B3%'")[0] == [1]
    with pytest.raises(CohortError, match="cannot be evaluated") as error:
        chosen(rows, tmp_path, where="NoSuchColumn = 1")
    assert error.value.code == "where"


def test_an_sql_condition_without_duckdb(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(CohortError, match="pip install duckdb"):
        chosen([series(1, "p", "s", None)], tmp_path, where="1 = 1")


def test_what_cannot_be_chosen(tmp_path: Path) -> None:
    file = write([series(1, "p", "s", "SCOUT")], tmp_path)
    for choice, code in [
        (Choice(()), "usage"),
        (Choice(("nope",)), "no-collection"),
        (Choice(("nlst",)), "empty"),
    ]:
        with pytest.raises(CohortError) as error:
            public_cohort(choice, index=file)
        assert error.value.code == code
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(CohortError) as error:
        public_cohort(Choice(("nlst",)), index=tmp_path / "bad.parquet")
    assert error.value.code == "unreadable"


def test_without_the_package(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CohortError, match=r"drasclr\[idc\]"):
        index_file()
