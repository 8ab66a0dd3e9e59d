"""Scans that were named one by one: files, DICOM folders, trees of folders and scan tables, as one scan table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform.cohort.scan_rules import scan_id_of
from ctplatform.cohort.table import COLUMNS, read_cohort
from ctplatform.errors import CohortError

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.config.cluster import RayConfig

LISTED = "listed"


@dataclass(frozen=True)
class GivenScans:
    """Scans in the order in which they were named.

    Attributes:
        table: columns `COLUMNS`, and `listed`: whether a scan table already says which file a scan_id is.
        passed_over: "path below a folder: reason why it is no scan". For the screen only: paths may name people.
    """

    table: pd.DataFrame
    passed_over: list[str]


def given_scans(sources: Iterable[str], *, ray_config: RayConfig | None = None) -> GivenScans:
    """The scans of each source.

    - A path or URI that ends in .csv is a scan table (`read_cohort`).
    - A folder is searched (`discover`): a DICOM series, or a tree of them and of volume files. A folder without any
      usable scan counts as one scan, so that its preparation says what is wrong with it.
    - Anything else is one scan. Its scan_id follows from its path, and its subject_id is the scan_id.

    Args:
        sources: paths and URIs.
        ray_config: of the search of large trees; None: in this process.

    Raises:
        CohortError: no source, a scan table that cannot be used, or two scans with one scan_id.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    passed_over: list[str] = []
    for source in sources:
        if source.partition("?")[0].lower().endswith(".csv"):
            table = read_cohort(source)
            rows += [row | {LISTED: True} for row in table[list(COLUMNS)].to_dict("records")]
        elif "://" not in source and Path(source).expanduser().is_dir():
            found, lines = _of_folder(source, ray_config)
            rows += found
            passed_over += lines
        else:
            rows.append(_one(source))
    if not rows:
        raise CohortError("no scan was given", "Name files, folders or a scan table", code="usage")
    unique = list({(row["path"], row["series_uid"]): row for row in rows}.values())
    seen: set[str] = set()
    twice = {row["scan_id"] for row in unique if row["scan_id"] in seen or seen.add(row["scan_id"])}  # type: ignore[func-returns-value]
    if twice:
        raise CohortError(
            f"{len(twice)} scan_id(s) name two different scans, {min(twice)!r} for one",
            "Give one scan table, or tables with distinct ids",
            code="cohort",
        )
    return GivenScans(pd.DataFrame(unique, columns=[*COLUMNS, LISTED]), passed_over)


def _of_folder(source: str, ray_config: RayConfig | None) -> tuple[list[dict[str, Any]], list[str]]:
    from ctplatform.cohort.discovery import discover

    try:
        found = discover(source, ray_config=ray_config)
    except CohortError as error:
        if error.code != "empty":
            raise
        return [_one(source)], []
    return [row | {LISTED: False} for row in found.table.to_dict("records")], found.passed_over


def _one(source: str) -> dict[str, Any]:
    path = source if "://" in source else os.path.abspath(os.path.expanduser(source))
    scan_id = scan_id_of(path.partition("?")[0])
    return {"scan_id": scan_id, "subject_id": scan_id, "path": path, "series_uid": "", LISTED: False}
