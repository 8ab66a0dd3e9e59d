"""Cohorts from the Imaging Data Commons (IDC): chest CT series of public collections, chosen from its index alone.

The index is a Parquet file that the package idc-index-data holds, a row a DICOM series; no network is needed. Series
are chosen as those of a folder are (`ctplatform.imaging.dicom_series.choose_series`), as far as the index and the
series descriptions tell: geometry, tilt and missing slices show only when a series is read. IDC: Fedorov et al.,
RadioGraphics 43 (2023), doi:10.1148/rg.230180.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.cohort.idc_series import Description, describe
from ctplatform.errors import CohortError
from ctplatform.imaging.dicom_series import is_sharp_kernel
from ctplatform.imaging.volume_checks import MIN_SLICES
from ctplatform.storage.public import public_uri

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

IDC_CITATION = (
    "Fedorov A, et al. National Cancer Institute Imaging Data Commons: Toward Transparency, Reproducibility, and "
    "Scalability in Imaging Artificial Intelligence. RadioGraphics 43(12), 2023. https://doi.org/10.1148/rg.230180"
)
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
_CHEST = re.compile(r"CHEST|LUNG|THORAX|MEDIASTINUM|WHOLEBODY")
_THICKNESS_CLASSES_MM = (1.5, 3.0, 5.0)
_BATCH = 1 << 16


@dataclass(frozen=True)
class Choice:
    """What of the index becomes a scan table.

    Attributes:
        collections: `collection_id` of IDC, such as nlst or lidc_idri.
        subjects: so many people at most, all their scans; None: all.
        max_bytes: people are added until the next one would go beyond this; None: no limit.
        kernels: reconstruction kernels to keep, by name, or the classes "smooth" and "sharp"; empty: all.
        where: an SQL condition on the columns of the index, and on kernel and slice_thickness_mm; needs duckdb.
        every_series: every axial series, not the best one of each study.
        seed: of the order in which people are taken; a larger cohort of the same seed holds the smaller one.
        store: "s3" or "gs", which hold the same files.
    """

    collections: tuple[str, ...]
    subjects: int | None = None
    max_bytes: float | None = None
    kernels: tuple[str, ...] = ()
    where: str = ""
    every_series: bool = False
    seed: int = 0
    store: str = "s3"


@dataclass(frozen=True)
class PublicCohort:
    """A scan table and where it came from.

    Attributes:
        table: scan_id, subject_id, path, series_uid, then what the index tells of each series.
        series: CT series of the collections.
        passed_over: reason -> series, most frequent first.
        citations: DOI -> citation, of all data in the table.
        release: of IDC and of the index.
    """

    table: pd.DataFrame
    series: int
    passed_over: dict[str, int]
    citations: dict[str, str] = field(default_factory=dict)
    release: str = ""

    @property
    def bytes(self) -> int:
        """Of all chosen series in the bucket."""
        return int(self.table["bytes"].sum())


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


def public_cohort(choice: Choice, *, index: str | Path | None = None) -> PublicCohort:
    """Choose the chest CT series of public collections.

    Args:
        choice: which.
        index: Parquet file in the form of IDC's index; None: that of the package idc-index-data.

    Raises:
        CohortError: no index, no such collection, an SQL condition that cannot be evaluated, or nothing chosen.
    """
    import pandas as pd

    file = Path(index) if index else index_file()
    series, release = _read(file, choice)
    described = _descriptions(series)
    reasons = np.full(len(series), "", object)
    _exclude(series, described, choice, reasons)
    if not choice.every_series:
        _best_of_each_study(series, described, reasons)
    _subsample(series, choice, reasons)
    counts = dict(Counter(reason for reason in reasons if reason).most_common())
    kept = np.flatnonzero(reasons == "")
    if not len(kept):
        shown = "".join(f"\n  {count:,} {reason}" for reason, count in counts.items())
        raise CohortError(
            f"none of the {len(series):,} CT series can be used{shown}", "Choose less strictly", code="empty"
        )
    rows = pd.DataFrame(_rows(series, described, kept, choice))
    rows = rows.sort_values(["collection", "subject_id", "study_date", "scan_id"], ignore_index=True)
    citations = _citations(file.parent / "collections_index.parquet", sorted(set(rows["doi"]) - {""}))
    return PublicCohort(rows, len(series), counts, citations, release)


def summary(found: PublicCohort) -> list[str]:
    """For people: what was chosen, what was passed over and why, how much it is, and what it obliges to."""
    table = found.table
    lines = [f"{found.series:,} CT series in the index{f' ({found.release})' if found.release else ''}"]
    lines += [f"passed over  {count:>8,}  {reason}" for reason, count in found.passed_over.items()]
    scans = table["subject_id"].value_counts()
    lines.append(
        f"chosen       {len(table):>8,}  series of {len(scans):,} subjects, {int((scans > 1).sum()):,} of them with "
        f"several, {int(table['images'].sum()):,} images, {found.bytes / 1e12:.3f} TB"
    )
    for name, title in (("kernel", "kernels"), ("manufacturer", "scanners"), ("licence", "licences")):
        counts = Counter(value or "unknown" for value in table[name])
        shown = ", ".join(f"{value} {count:,}" for value, count in counts.most_common(8))
        lines.append(f"{title:<12} {shown}{', ...' if len(counts) > 8 else ''}")
    if any("NC" in str(licence) for licence in table["licence"]):
        lines.append("             licences with NC forbid commercial use")
    lines.append("cite:")
    lines += [f"  {citation}" for citation in (*found.citations.values(), IDC_CITATION)]
    return lines


def _read(file: Path, choice: Choice) -> tuple[pd.DataFrame, str]:
    """The CT series of the collections, streamed: the whole index would take a gigabyte."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not choice.collections:
        raise CohortError("no collection is given", "Name one with --collection, e.g. nlst", code="usage")
    try:
        parquet = pq.ParquetFile(file, read_dictionary=_FEW_VALUES, memory_map=True)
        columns = None if choice.where else _COLUMNS
        parts, known = [], Counter[str]()
        wanted = pa.array(choice.collections)
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
    missing = [name for name in choice.collections if name not in known]
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
    keep = _where(table, choice.where) if choice.where else None
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


def _descriptions(series: pd.DataFrame) -> np.ndarray:
    """A `Description` of each series; many have the same."""
    codes, texts = series["SeriesDescription"].factorize(use_na_sentinel=False)
    known = np.empty(len(texts), object)
    known[:] = [describe(text if isinstance(text, str) else None) for text in texts]
    described: np.ndarray = known[codes]
    return described


def _exclude(series: pd.DataFrame, described: np.ndarray, choice: Choice, reasons: np.ndarray) -> None:
    """Say of each series that cannot be used why, the first reason that holds."""
    plane = np.array([d.plane for d in described])
    body = series["BodyPartExamined"].astype(object).fillna("")
    chest = {part: not part or bool(_CHEST.search(part)) for part in body.unique()}
    kernels = np.array([_wanted_kernel(d.kernel, choice.kernels) for d in described])
    tests = {
        "result of an analysis, not an acquisition": series["analysis_result_id"].notna().to_numpy(),
        "not of the class CT Image Storage": (series["sop_class_name"] != "CT Image Storage").to_numpy(),
        "localizer": plane == "localizer",
        "not axial": plane == "reformatted",
        f"fewer than {MIN_SLICES} images": (series["instanceCount"] < MIN_SLICES).to_numpy(),
        "not of the chest": ~body.map(chest).to_numpy(bool),
        "excluded by --where": ~series["where"].to_numpy(bool),
        f"kernel is not {' or '.join(choice.kernels)}": ~kernels,
    }
    for reason, holds in tests.items():
        reasons[(reasons == "") & holds] = reason


def _wanted_kernel(kernel: str, wanted: Sequence[str]) -> bool:
    if not wanted:
        return True
    kind = "sharp" if is_sharp_kernel(kernel) else "smooth"
    return bool(kernel) and any(name.upper() == kernel.upper() or name.lower() == kind for name in wanted)


def _best_of_each_study(series: pd.DataFrame, described: np.ndarray, reasons: np.ndarray) -> None:
    """Keep the series that `dicom_series.choose_series` would keep of each study, as far as the index tells.

    A thickness that is unknown counts as between 3 and 5 mm, and such a series' coverage as complete.
    """
    rows = np.flatnonzero(reasons == "")
    study = series["StudyInstanceUID"].to_numpy()[rows]
    uid = series["SeriesInstanceUID"].to_numpy()[rows]
    images = series["instanceCount"].to_numpy()[rows]
    about: list[Description] = list(described[rows])
    thickness = np.array([d.thickness_mm or np.nan for d in about], np.float64)
    coverage = images * thickness
    _, group = np.unique(study.astype(str), return_inverse=True)
    longest = np.zeros(group.max(initial=0) + 1)
    np.fmax.at(longest, group, coverage)
    thick = np.searchsorted(_THICKNESS_CLASSES_MM, thickness)
    rank = [
        ("derived", np.array([d.derived for d in about])),
        ("shorter coverage", coverage < 0.8 * longest[group]),  # false where unknown
        ("thicker slices", np.where(np.isnan(thickness), 2, thick)),
        ("sharper kernel", np.array([is_sharp_kernel(d.kernel) for d in about])),
        ("fewer images", -images),
        ("later UID", np.argsort(np.argsort(uid.astype(str), kind="stable"))),
    ]
    order = np.lexsort([values for _, values in reversed(rank)] + [group])
    first = np.full(len(longest), -1)
    head = np.concatenate([[True], np.diff(group[order]) != 0]) if len(order) else np.zeros(0, bool)
    first[group[order][head]] = order[head]
    best = first[group]
    open_ = best != np.arange(len(rows))
    for name, values in rank:
        differs = open_ & (values != values[best])
        reasons[rows[differs]] = f"{name} than another series of the study"
        open_ &= ~differs


def _subsample(series: pd.DataFrame, choice: Choice, reasons: np.ndarray) -> None:
    """Take whole people in an order that depends on the seed and their IDs only, until a limit is reached."""
    if choice.subjects is None and choice.max_bytes is None:
        return
    rows = np.flatnonzero(reasons == "")
    people = _subject_ids(series)[rows]
    sizes = series["series_size_MB"].to_numpy()[rows] * 1e6
    names, group = np.unique(people, return_inverse=True)
    keys = [hashlib.sha256(f"{choice.seed}:{name}".encode()).digest() for name in names]
    order = np.array(sorted(range(len(names)), key=lambda i: keys[i]), int)
    each = np.bincount(group, weights=sizes, minlength=len(names))[order]
    taken = np.ones(len(names), bool)
    if choice.max_bytes is not None:
        taken &= np.cumsum(each) <= choice.max_bytes
    if choice.subjects is not None:
        taken &= np.arange(len(names)) < choice.subjects
    chosen = np.zeros(len(names), bool)
    chosen[order] = taken
    limits = [f"{choice.subjects:,} subjects"] if choice.subjects is not None else []
    limits += [f"{choice.max_bytes / 1e12:g} TB"] if choice.max_bytes is not None else []
    reasons[rows[~chosen[group]]] = (
        f"of subjects beyond the first {' and '.join(limits)} by seed {choice.seed}"
    )


def _subject_ids(series: pd.DataFrame) -> np.ndarray:
    """Collection and PatientID, which these collections have replaced by a study number already."""
    names = series["collection_id"].astype(str) + "-" + series["PatientID"].astype(str)
    ids: np.ndarray = names.map(_safe).to_numpy(object)
    return ids


def _safe(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80]
    return clean if clean == name else f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _scan_id(uid: str) -> str:
    """As of scans in folders, two digits longer: ten digits of 200,000 series would meet in one of 50 cohorts."""
    return "ct-" + hashlib.sha256(uid.encode()).hexdigest()[:12]


def _rows(series: pd.DataFrame, described: np.ndarray, kept: np.ndarray, choice: Choice) -> dict[str, Any]:
    chosen = series.iloc[kept]
    about: list[Description] = list(described[kept])
    uids = chosen["SeriesInstanceUID"].to_numpy()
    places = zip(chosen["aws_bucket"], chosen["crdc_series_uuid"])

    def text(column: str) -> np.ndarray:
        values: np.ndarray = chosen[column].astype(object).fillna("").to_numpy()
        return values

    return {
        "scan_id": [_scan_id(uid) for uid in uids],
        "subject_id": _subject_ids(chosen),
        "path": [public_uri(bucket, uuid, store=choice.store) for bucket, uuid in places],
        "series_uid": uids,
        "collection": text("collection_id"),
        "study_uid": chosen["StudyInstanceUID"].to_numpy(),
        "study_date": text("StudyDate"),
        "bytes": np.rint(chosen["series_size_MB"].to_numpy() * 1e6).astype(np.int64),
        "images": chosen["instanceCount"].to_numpy(),
        "kernel": [d.kernel for d in about],
        "slice_thickness_mm": [d.thickness_mm for d in about],
        "manufacturer": text("Manufacturer"),
        "scanner": text("ManufacturerModelName"),
        "study": text("StudyDescription"),
        "licence": text("license_short_name"),
        "doi": text("source_DOI"),
    }


def _citations(file: Path, dois: Sequence[str]) -> dict[str, str]:
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
