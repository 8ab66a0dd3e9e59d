"""Cohorts from the Imaging Data Commons (IDC): chest CT series of public collections, chosen from its index alone.

`idc_index` reads the index, `idc_selection` chooses, and this module makes the scan table and its summary. IDC: Fedorov
et al., RadioGraphics 43 (2023), doi:10.1148/rg.230180.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.cohort.idc_index import citations, descriptions, index_file, read_index
from ctplatform.cohort.idc_selection import Choice, select, subject_ids
from ctplatform.cohort.idc_series import Description
from ctplatform.errors import CohortError
from ctplatform.storage.public import public_uri

if TYPE_CHECKING:
    import pandas as pd

IDC_CITATION = (
    "Fedorov A, et al. National Cancer Institute Imaging Data Commons: Toward Transparency, Reproducibility, and "
    "Scalability in Imaging Artificial Intelligence. RadioGraphics 43(12), 2023. https://doi.org/10.1148/rg.230180"
)


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
    series, release = read_index(file, choice.collections, where=choice.where)
    described = descriptions(series)
    reasons = select(series, described, choice)
    counts = dict(Counter(reason for reason in reasons if reason).most_common())
    kept = np.flatnonzero(reasons == "")
    if not len(kept):
        shown = "".join(f"\n  {count:,} {reason}" for reason, count in counts.items())
        raise CohortError(
            f"none of the {len(series):,} CT series can be used{shown}", "Choose less strictly", code="empty"
        )
    rows = pd.DataFrame(_rows(series, described, kept, choice))
    rows = rows.sort_values(["collection", "subject_id", "study_date", "scan_id"], ignore_index=True)
    cited = citations(file.parent / "collections_index.parquet", sorted(set(rows["doi"]) - {""}))
    return PublicCohort(rows, len(series), counts, cited, release)


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
        "subject_id": subject_ids(chosen),
        "path": [public_uri(bucket, uuid, store=choice.store) for bucket, uuid in places],
        "series_uid": uids,
        "collection": text("collection_id"),
        "study_uid": chosen["StudyInstanceUID"].to_numpy(),
        "study_date": text("StudyDate"),
        "bytes": np.rint(chosen["series_size_MB"].to_numpy() * 1e6).astype(np.int64),
        "images": chosen["instanceCount"].to_numpy(),
        "kernel": [d.kernel for d in about],
        "slice_thickness_mm": [d.thickness_mm for d in about],
        "kvp": [d.kvp for d in about],
        "exposure_mas": [d.exposure_mas for d in about],
        "manufacturer": text("Manufacturer"),
        "scanner": text("ManufacturerModelName"),
        "study": text("StudyDescription"),
        "licence": text("license_short_name"),
        "doi": text("source_DOI"),
    }
