"""A small index of the Imaging Data Commons, whose rows differ in what a test is about."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.cohort.idc import public_cohort
from ctplatform.cohort.idc_selection import Choice


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
