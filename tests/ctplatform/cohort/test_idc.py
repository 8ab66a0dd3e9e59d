"""Cohorts from the index of the Imaging Data Commons: a small index with known answers, and the real one."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
import uuid
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctplatform.cohort.idc import public_cohort, summary
from ctplatform.cohort.idc_selection import Choice
from ctplatform.cohort.table import read_cohort, write_cohort
from tests.ctplatform.cohort.idc_rows import series, text, write

needs_index = pytest.mark.skipif(
    importlib.util.find_spec("idc_index_data") is None, reason="idc-index-data is not installed (extra idc)"
)


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


_MEASURED = """
import json, sys, time
from pathlib import Path
start = time.process_time()
from ctplatform.cli.main import main
main(sys.argv[1:])
from tests.benchmarks.peak import peak_mib
peak = peak_mib() * 2**20
print(json.dumps({"cpu_s": time.process_time() - start, "peak": peak}))
"""


_PLANNED = """
import json, sys, time
start = time.process_time()
from ctplatform.cohort.table import read_cohort
from ctplatform.config.recipe import Recipe
from ctplatform.preparation.plan import make_plan
from ctplatform.storage.workspace import Workspace
plan = make_plan(Workspace(sys.argv[2]), read_cohort(sys.argv[1]), Recipe(), "atlas")
from tests.benchmarks.peak import peak_mib
peak = peak_mib() * 2**20
print(json.dumps({"todo": plan.todo, "cpu_s": time.process_time() - start, "peak": peak}))
"""


@needs_index
def test_all_of_nlst_from_the_real_index(tmp_path: Path) -> None:
    """203,111 series in less than 10 CPU-seconds and 1 GiB, and the plan of all studies in less than 60 and 1 GiB: wall
    time depends on what else the machine does."""
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
    command = [sys.executable, "-c", _PLANNED, str(out), str(tmp_path / "workspace")]
    planned = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert planned["todo"] == len(table)
    assert planned["cpu_s"] < 60
    assert planned["peak"] < 2**30


@needs_index
def test_other_collections_of_the_real_index() -> None:
    found = public_cohort(Choice(("lidc_idri", "nsclc_radiomics")))
    counts = found.table.groupby("collection")["subject_id"].nunique()
    assert counts.to_dict() == {"lidc_idri": 1010, "nsclc_radiomics": 422}
    assert "https://doi.org/10.7937" in "\n".join(summary(found))
