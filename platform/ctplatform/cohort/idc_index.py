"""The index of the Imaging Data Commons, a Parquet file of the package idc-index-data, a row a DICOM series.

It is read with pyarrow alone, streamed, without network. idc-index, its usual reader, requires a duckdb of its own.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctplatform.cohort.idc_series import describe
from ctplatform.errors import CohortError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_COLUMNS = [
    "collection_id", "Modality", "analysis_result_id", "sop_class_name", "BodyPartExamined", "PatientID",
    "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyDescription", "SeriesDescription", "Manufacturer",
    "ManufacturerModelName", "instanceCount", "series_size_MB", "license_short_name", "source_DOI", "aws_bucket",
    "crdc_series_uuid",
]  # fmt: skip
#: Read as dictionaries: a million rows of few values.
_FEW_VALUES = [
    "collection_id", "Modality", "analysis_result_id", "sop_class_name", "BodyPartExamined", "StudyDate",
    "StudyDescription", "Manufacturer", "ManufacturerModelName", "license_short_name", "source_DOI", "aws_bucket",
]  # fmt: skip
_BATCH = 1 << 16


def index_file() -> Path:
    """The index of the installed package.

    Raises:
        CohortError: it is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("idc_index_data")
    if spec is None or not spec.submodule_search_locations:
        raise CohortError(
            "the index of the Imaging Data Commons is not installed",
            "Install it with `pip install 'drasclr[idc]'`, or name its idc_index.parquet with --index",
            code="missing-package",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "idc_index.parquet"


def read_index(file: Path, collections: Sequence[str], *, where: str = "") -> tuple[pd.DataFrame, str]:
    """The CT series of some collections, and the release of the index. Streamed: the whole would take a gigabyte.

    Args:
        file: Parquet, in the form of IDC's index.
        collections: their `collection_id`.
        where: an SQL condition; the column `where` says for which series it holds.

    Raises:
        CohortError: the file cannot be read, has no such collection, or the condition cannot be evaluated.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not collections:
        raise CohortError("no collection is given", "Name one with --collection, e.g. nlst", code="usage")
    try:
        parquet = pq.ParquetFile(file, read_dictionary=_FEW_VALUES, memory_map=True)
        columns = None if where else _COLUMNS
        parts, known = [], Counter[str]()
        wanted = pa.array(collections)
        for batch in parquet.iter_batches(batch_size=_BATCH, columns=columns, use_threads=False):
            is_ct = pc.equal(batch["Modality"], "CT")
            known.update(batch["collection_id"].filter(is_ct).to_pylist())
            own = batch.filter(pc.and_(is_ct, pc.is_in(batch["collection_id"].cast(pa.string()), wanted)))
            if own.num_rows:
                parts.append(own)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise CohortError(
            f"the index {file.name} cannot be read: {error}",
            "Install idc-index-data again, or give its idc_index.parquet",
            code="unreadable",
        ) from None
    missing = [name for name in collections if name not in known]
    if missing:
        shown = ", ".join(f"{name} ({count:,})" for name, count in known.most_common(12))
        raise CohortError(
            f"the index has no CT series of the collection {', '.join(missing)}",
            f"Name some of its {len(known)} collections with CT, such as {shown}",
            code="no-collection",
        )
    table = pa.Table.from_batches(parts).unify_dictionaries()
    metadata = {
        k.decode(): v.decode() for k, v in (parquet.schema_arrow.metadata or {}).items() if k != b"pandas"
    }
    version = metadata.get("idc_index_data_version", "").partition("-")[0]
    release = f"IDC release {version.partition('.')[0]}, index {version}" if version else ""
    keep = _where(table, where) if where else None
    frame = table.select(_COLUMNS).to_pandas()
    frame["where"] = True if keep is None else frame["SeriesInstanceUID"].isin(keep)
    return frame, release


def _where(table: pa.Table, condition: str) -> set[str]:
    """SeriesInstanceUIDs of the rows for which an SQL condition holds."""
    try:
        import duckdb
    except ImportError:
        raise CohortError(
            "an SQL condition needs duckdb, which is not installed",
            "Install it with `pip install duckdb`, or leave --where out",
            code="missing-package",
        ) from None
    import pyarrow as pa

    found = [describe(text) for text in table["SeriesDescription"].to_pylist()]
    series = table.append_column("kernel", pa.array([d.kernel for d in found]))
    series = series.append_column(
        "slice_thickness_mm", pa.array([d.thickness_mm for d in found], pa.float64())
    )
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("idc_index", series)
        try:
            rows = connection.execute(f"SELECT SeriesInstanceUID FROM idc_index WHERE {condition}").fetchall()
        except duckdb.Error as error:
            problem = " ".join(str(error).split())
            raise CohortError(
                f"the SQL condition {condition!r} cannot be evaluated: {problem}",
                "Correct --where; columns are those of IDC's idc_index, kernel and slice_thickness_mm",
                code="where",
            ) from None
    return {uid for (uid,) in rows}


def descriptions(series: pd.DataFrame) -> np.ndarray:
    """A `Description` of each series; many have the same."""
    codes, texts = series["SeriesDescription"].factorize(use_na_sentinel=False)
    known = np.empty(len(texts), object)
    known[:] = [describe(text if isinstance(text, str) else None) for text in texts]
    described: np.ndarray = known[codes]
    return described


def citations(file: Path, dois: Sequence[str]) -> dict[str, str]:
    """In the words of the data's authors; the DOI alone where the index has none."""
    import pyarrow.parquet as pq

    found = {doi: f"https://doi.org/{doi}" for doi in dois}
    if not file.is_file():
        return found
    for sources in pq.read_table(file, columns=["sources"])["sources"].to_pylist():
        for source in sources or ():
            if source.get("source_doi") in found and source.get("citation"):
                text = html.unescape(re.sub(r"<[^>]+>", "", source["citation"]))
                found[source["source_doi"]] = " ".join(text.split())
    return found
