"""Cohorts from the index of the Imaging Data Commons: a small index with known answers, and the real one."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctplatform.cohort.idc import Choice, index_file, public_cohort, summary
from ctplatform.cohort.table import read_cohort, write_cohort
from ctplatform.errors import CohortError

needs_index = pytest.mark.skipif(
    importlib.util.find_spec("idc_index_data") is None, reason="idc-index-data is not installed (extra idc)"
)


def series(number: int, patient: str, study: str, description: str | None, **other: Any) -> dict[str, Any]:
    return {
        "collection_id": "nlst",
        "Modality": "CT",
        "analysis_result_id": None,
        "sop_class_name": "CT Image Storage",
        "BodyPartExamined": "CHEST",
        "PatientID": patient,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"1.2.{number}",
        "StudyDate": "1999-01-02",
        "StudyDescription": "NLST-LSS",
        "SeriesDescription": description,
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "Sensation 16",
        "instanceCount": 150,
        "series_size_MB": 80.0,
        "license_short_name": "CC BY 4.0",
        "source_DOI": "10.7937/tcia.hmq8-j677",
        "aws_bucket": "idc-open-data",
        "crdc_series_uuid": str(uuid.UUID(int=number)),
        "PatientSex": "F",
    } | other


def text(kernel: str, thickness: str = "2", kind: str = "OPA", year: int = 0) -> str:
    return f"{year},{kind},SE,SEN16,{kernel},340,{thickness},120,40,30,1.5"


def write(rows: list[dict[str, Any]], folder: Path) -> Path:
    file = folder / "idc_index.parquet"
    schema = pa.schema(
        [
            (
                name,
                pa.int64()
                if name == "instanceCount"
                else pa.float64()
                if "MB" in name
                else pa.large_string(),
            )
            for name in rows[0]
        ],
        metadata={"idc_index_data_version": "25.0.5-0-gf08b112"},
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), file)
    return file


def chosen(rows: list[dict[str, Any]], folder: Path, **choice: Any) -> tuple[list[int], dict[str, int]]:
    """Numbers of the series that are taken, and what was passed over."""
    found = public_cohort(Choice(("nlst",), **choice), index=write(rows, folder))
    assert len(found.table) + sum(found.passed_over.values()) == found.series
    return sorted(int(uid.rpartition(".")[2]) for uid in found.table["series_uid"]), found.passed_over


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"analysis_result_id": "nlst_x"}, "result of an analysis, not an acquisition"),
        ({"sop_class_name": "Secondary Capture Image Storage"}, "not of the class CT Image Storage"),
        ({"SeriesDescription": text("T20s", kind="OPL")}, "localizer"),
        ({"SeriesDescription": "CORONAL"}, "not axial"),
        ({"instanceCount": 9}, "fewer than 10 images"),
        ({"BodyPartExamined": "KIDNEY"}, "not of the chest"),
        ({"SeriesDescription": text("B30f", kind="DPA")}, "derived than another series of the study"),
        ({"instanceCount": 100}, "shorter coverage than another series of the study"),
        (
            {"SeriesDescription": text("B30f", "5"), "instanceCount": 60},
            "thicker slices than another series of the study",
        ),
        ({"SeriesDescription": text("B50f")}, "sharper kernel than another series of the study"),
        ({"instanceCount": 149}, "fewer images than another series of the study"),
        ({}, "later UID than another series of the study"),
    ],
)
def test_why_a_series_is_passed_over(others: dict[str, Any], reason: str, tmp_path: Path) -> None:
    rows = [series(1, "p", "s", text("B30f")), series(2, "p", "s", text("B30f")) | others]
    assert chosen(rows, tmp_path) == ([1], {reason: 1})


def test_each_study_is_chosen_from_by_itself(tmp_path: Path) -> None:
    rows = [
        series(1, "p", "s1", text("B50f")),  # all there is
        series(2, "p", "s2", text("B50f", year=1)),
        series(3, "p", "s2", text("B30f", year=1)),
        series(4, "q", "s3", None),  # of which nothing is known
        series(5, "q", "s3", "Thorax  5.0  B30f", instanceCount=60),
    ]
    assert chosen(rows, tmp_path)[0] == [1, 3, 4]
    assert chosen(rows, tmp_path, every_series=True) == ([1, 2, 3, 4, 5], {})


def test_kernels(tmp_path: Path) -> None:
    rows = [series(1, "p", "s", text("B50f")), series(2, "p", "s", text("B30f")), series(3, "q", "t", None)]
    assert chosen(rows, tmp_path, kernels=("b50F",)) == ([1], {"kernel is not b50F": 2})
    assert chosen(rows, tmp_path, kernels=("sharp",))[0] == [1]
    assert chosen(rows, tmp_path, kernels=("smooth", "B50f"))[0] == [2]


def test_people_are_taken_whole_in_an_order_of_the_seed(tmp_path: Path) -> None:
    rows = [
        series(3 * person + visit, f"{person}", f"{person}.{visit}", text("B30f", year=visit))
        for person in range(40)
        for visit in range(3)
    ]
    seen: set[int] = set()
    for count in (0, 5, 10, 40, 99):
        if count == 0:
            with pytest.raises(CohortError, match="none of the 120"):
                chosen(rows, tmp_path, subjects=0)
            continue
        numbers, passed = chosen(rows, tmp_path, subjects=count)
        assert len(numbers) == 3 * min(count, 40)
        assert seen <= set(numbers), "a larger cohort of the same seed holds the smaller one"
        seen = set(numbers)
        if count < 40:
            assert passed == {f"of subjects beyond the first {count} subjects by seed 0": 120 - 3 * count}
    five = chosen(rows, tmp_path, subjects=5)[0]
    assert chosen(rows, tmp_path, subjects=5)[0] == five
    assert chosen(rows[::-1], tmp_path, subjects=5)[0] == five, "whatever the order of the index"
    assert chosen(rows, tmp_path, subjects=5, seed=1)[0] != five
    # 80 MB a series: three people have 720 MB.
    assert chosen(rows, tmp_path, max_bytes=0.95e9)[0] == chosen(rows, tmp_path, subjects=3)[0]
    assert len(chosen(rows, tmp_path, max_bytes=0.95e9, subjects=2)[0]) == 6


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


def test_the_table_is_a_scan_table(tmp_path: Path) -> None:
    rows = [
        series(1, "a b/c", "s", text("B30f")),
        series(2, "a b/d", "t", None, StudyDate="2001-01-02", BodyPartExamined=None),
    ]
    found = public_cohort(Choice(("nlst",)), index=write(rows, tmp_path))
    write_cohort(found.table, tmp_path / "cohort.csv")
    table = read_cohort(tmp_path / "cohort.csv")
    assert set(table["path"]) == {f"s3://idc-open-data/{uuid.UUID(int=n)}" for n in (1, 2)}
    assert table["subject_id"].nunique() == 2, "IDs that file names cannot hold stay apart"
    assert table["subject_id"].str.fullmatch(r"nlst-a_b_[cd]-[0-9a-f]{8}").all()
    first = table.set_index("series_uid").loc["1.2.1"]
    assert (first["bytes"], first["images"], first["kernel"], first["slice_thickness_mm"]) == (
        80e6,
        150,
        "B30f",
        2.0,
    )
    assert (first["licence"], first["doi"], first["study"]) == (
        "CC BY 4.0",
        "10.7937/tcia.hmq8-j677",
        "NLST-LSS",
    )
    google = public_cohort(Choice(("nlst",), store="gs"), index=tmp_path / "idc_index.parquet").table
    assert set(google["path"]) == {f"gs://idc-open-data/{uuid.UUID(int=n)}" for n in (1, 2)}
    assert google["scan_id"].tolist() == found.table["scan_id"].tolist()


def test_citations_and_licences_are_said(tmp_path: Path) -> None:
    rows = [
        series(1, "p", "s", None),
        series(2, "q", "t", None, license_short_name="CC BY-NC 4.0", source_DOI="10.1/x"),
    ]
    source = {
        "source_doi": "10.1/x",
        "citation": "Doe, J. &amp; Roe, R.\n<i>Scans</i>. https://doi.org/10.1/x",
    }
    pq.write_table(
        pa.table({"collection_id": ["nlst"], "sources": [[source]]}), tmp_path / "collections_index.parquet"
    )
    lines = summary(public_cohort(Choice(("nlst",)), index=write(rows, tmp_path)))
    said = "\n".join(lines)
    assert "Doe, J. & Roe, R. Scans. https://doi.org/10.1/x" in said
    assert "https://doi.org/10.7937/tcia.hmq8-j677" in said
    assert "10.1148/rg.230180" in said
    assert "forbid commercial use" in said
    assert "0.000 TB" in said
    assert "IDC release 25, index 25.0.5" in said


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


_MEASURED = """
import json, resource, sys, time
from pathlib import Path
start = time.process_time()
from ctplatform.cli.main import main
main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"cpu_s": time.process_time() - start, "peak": peak}))
"""


@needs_index
def test_all_of_nlst_from_the_real_index(tmp_path: Path) -> None:
    """203,111 series in less than 10 CPU-seconds and 1 GiB: wall time depends on what else the machine does."""
    out = tmp_path / "cohort.csv"
    command = [sys.executable, "-c", _MEASURED, "cohort", "idc", "--collection", "nlst", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["cpu_s"] < 10
    assert measured["peak"] < 2**30
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pd.DataFrame(rows)
    assert "203,111 CT series" in done.stdout
    # TCIA counts 73,118 examinations of 26,254 people; a few have no axial series.
    assert 72_500 < len(table) < 73_118
    assert table["study_uid"].is_unique
    assert 26_200 < table["subject_id"].nunique() <= 26_254
    assert table["scan_id"].is_unique
    assert table["path"].str.fullmatch(r"s3://idc-open-data/[0-9a-f-]{36}").all()
    assert (table["kernel"] != "").mean() > 0.999
    assert (table["slice_thickness_mm"] != "").mean() > 0.999
    assert set(table["licence"]) == {"CC BY 4.0"}
    assert "10.7937/TCIA.HMQ8-J677" in done.stdout


@needs_index
def test_other_collections_of_the_real_index() -> None:
    found = public_cohort(Choice(("lidc_idri", "nsclc_radiomics")))
    counts = found.table.groupby("collection")["subject_id"].nunique()
    assert counts.to_dict() == {"lidc_idri": 1010, "nsclc_radiomics": 422}
    assert "https://doi.org/10.7937" in "\n".join(summary(found))
