"""The scan table: one row a scan, written by `drasclr cohort` or by the user, checked before anything runs.

Columns: scan_id (part of file names, logs and figures, so it must not identify a person), subject_id (scans of one
person share it; splits are by subject), path, series_uid (only where a folder holds several DICOM series). All others
are labels.
"""

from __future__ import annotations

import csv
import io
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform.errors import CohortError
from ctplatform.imaging.files import FOLDER_SEPARATOR

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = ("scan_id", "subject_id", "path", "series_uid")
REQUIRED = ("scan_id", "path")
LUNG_MASK = "lung_mask"
"""Column with the path of a lung mask, which is used in place of the segmenter's; no label."""

LABEL_MAP_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".dcm")
"""A label column in which every value ends like this holds paths, resolved as those of `path` are."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NUMBER = re.compile(r"0*(\d+)(?:\.0*)?")
_MISSING = frozenset({"", "na", "n/a", "nan", "none", "null"})
MAX_LINES = 20
"""Problems shown in one error message."""


def read_cohort(csv_path: str | Path) -> pd.DataFrame:
    """Read and check a scan table (comma-separated, UTF-8, a header line). Local path or object-store URI.

    Relative paths are resolved against the folder of the table. An empty subject_id becomes the scan_id. A path
    that does not exist is no error here: that scan alone fails later. Label columns become numbers where all their
    values are, and paths where all are label maps (`LABEL_MAP_SUFFIXES`), as `LUNG_MASK` is; empty, NA, NaN, none and
    null are missing values.

    Returns:
        Columns `COLUMNS` first (str), then the labels, in the order of the file.

    Raises:
        CohortError: every problem found, one line each, with its row; row 1 is the header line.
    """
    import pandas as pd

    header, rows = _parse(_read_text(str(csv_path)), name=str(csv_path))
    problems = _check_header(header)
    if problems:
        raise _problems(csv_path, problems)
    if not rows:
        raise CohortError(f"the cohort table {csv_path} has no rows", "Add a row a scan", code="empty")
    problems = [
        f"row {number}: {len(row)} values where the header names {len(header)}"
        for number, row in rows
        if len(row) != len(header)
    ]
    if problems:
        raise _problems(csv_path, problems)
    numbers = [number for number, _ in rows]
    columns = {name: [row[i].strip() for _, row in rows] for i, name in enumerate(header)}
    scan_ids, paths = columns.pop("scan_id"), columns.pop("path")
    subject_ids = [s or scan for s, scan in zip(columns.pop("subject_id", [""] * len(rows)), scan_ids)]
    series_uids = columns.pop("series_uid", [""] * len(rows))
    problems = _check_ids(numbers, scan_ids, "scan_id") + _check_ids(numbers, subject_ids, "subject_id")
    problems += _check_unique(numbers, scan_ids)
    problems += _check_paths(numbers, paths, series_uids, str(csv_path))
    if problems:
        raise _problems(csv_path, problems)
    table: dict[str, Any] = {
        "scan_id": scan_ids,
        "subject_id": subject_ids,
        "path": [_resolve(path, str(csv_path)) for path in paths],
        "series_uid": series_uids,
    }
    for name, values in columns.items():
        table[name] = (
            [_resolve(v, str(csv_path)) if v.lower() not in _MISSING else "" for v in values]
            if name == LUNG_MASK
            else label_values(values, str(csv_path))
        )
    return pd.DataFrame(table)


def write_cohort(table: pd.DataFrame, path: str | Path) -> None:
    """Write a scan table as CSV, whole or not at all; missing labels stay empty."""
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    first = [c for c in COLUMNS if c in table.columns]
    ordered = table[[*first, *(c for c in table.columns if c not in COLUMNS)]]
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}-{target.name}")
    ordered.to_csv(temporary, index=False, lineterminator="\n")
    os.replace(temporary, target)


def _read_text(path: str) -> str:
    try:
        if _URI.match(path):
            import pyarrow.fs as pafs

            remote, inner = pafs.FileSystem.from_uri(path)
            with remote.open_input_file(inner) as stream:
                data: bytes = stream.read()
        else:
            data = Path(path).expanduser().read_bytes()
    except FileNotFoundError:
        raise CohortError(
            f"there is no cohort table {path}",
            "Check the path, or write one with `drasclr cohort`",
            code="missing-path",
        ) from None
    except (OSError, ValueError) as error:
        raise CohortError(
            f"the cohort table {path} cannot be read: {error}", "Check it", code="unreadable"
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CohortError(
            f"the cohort table {path} is no UTF-8 text",
            "Save it as CSV (UTF-8), not as a workbook",
            code="unreadable",
        ) from None


def _parse(text: str, *, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            if any(value.strip() for value in row):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise CohortError(
            f"row {reader.line_num} of the cohort table {name} cannot be read: {error}",
            "Correct the quotation marks of that row",
            code="unreadable",
        ) from None
    if not rows:
        raise CohortError(
            f"the cohort table {name} is empty", "Write a header line and a row a scan", code="empty"
        )
    return [column.strip() for column in rows[0][1]], rows[1:]


def _check_header(header: Sequence[str]) -> list[str]:
    from ctplatform.dataset.ledger import ACQUISITION, SCHEMA

    allowed = (
        *COLUMNS,
        *ACQUISITION,
    )  # the ledger takes the acquisition from the table where headers say nothing
    problems = [f"column {name!r} is missing" for name in REQUIRED if name not in header]
    if problems and len(header) == 1 and re.search(r"[;\t]", header[0]):
        return ["the columns are not separated by commas"]
    problems += [
        f"column {name!r} occurs twice" for name in sorted({n for n in header if header.count(n) > 1})
    ]
    problems += [f"column {i + 1} has no name" for i, name in enumerate(header) if not name]
    problems += [
        f"column {name!r} has the name of a column of the ledger; give it another name"
        for name in header
        if name in SCHEMA.names and name not in allowed
    ]
    return problems


def _check_ids(numbers: Sequence[int], ids: Sequence[str], column: str) -> list[str]:
    problems = []
    for number, value in zip(numbers, ids):
        if not value:
            problems += [f"row {number}: {column} is empty"] if column == "scan_id" else []
        elif not _SAFE.fullmatch(value):
            problems.append(
                f"row {number}: {column} {value!r} becomes part of file names; use letters, digits, `.`, `_` and `-`"
                " only, a letter or digit first, at most 100"
            )
    return problems


def _check_unique(numbers: Sequence[int], scan_ids: Sequence[str]) -> list[str]:
    problems = []
    seen: dict[str, int] = {}
    for number, value in zip(numbers, scan_ids):
        first = seen.setdefault(value.casefold(), number)
        if value and first != number:
            problems.append(
                f"rows {first} and {number}: scan_id {value!r} occurs twice (upper and lower case count alike)"
            )
    return problems


def _check_paths(
    numbers: Sequence[int], paths: Sequence[str], series_uids: Sequence[str], csv_path: str
) -> list[str]:
    problems = []
    seen: dict[tuple[str, str], int] = {}
    for number, path, uid in zip(numbers, paths, series_uids):
        if not path:
            problems.append(f"row {number}: path is empty")
            continue
        if "\0" in path:
            problems.append(f"row {number}: path holds a character that no path has")
            continue
        first = seen.setdefault((_real(_resolve(path, csv_path)), uid), number)
        if first != number:
            problems.append(f"rows {first} and {number}: the same scan twice ({path})")
    return problems


def _problems(csv_path: str | Path, problems: Sequence[str]) -> CohortError:
    shown = list(problems[:MAX_LINES])
    if len(problems) > MAX_LINES:
        shown.append(f"... and {len(problems) - MAX_LINES} more")
    return CohortError(
        f"the cohort table {csv_path} has {len(problems)} problem(s):\n  " + "\n  ".join(shown),
        "Correct the table",
        code="cohort",
    )


def _resolve(path: str, csv_path: str) -> str:
    """A path of the table as an absolute path or URI; of a series in several folders, each."""
    if FOLDER_SEPARATOR in path:
        return FOLDER_SEPARATOR.join(
            _resolve(part.strip(), csv_path) for part in path.split(FOLDER_SEPARATOR) if part.strip()
        )
    if _URI.match(path) or os.path.isabs(path) or path.startswith("~"):
        return os.path.expanduser(path)
    if _URI.match(csv_path):  # the store's options, such as its endpoint, apply to the scans too
        table, mark, options = csv_path.partition("?")
        return f"{table.rsplit('/', 1)[0]}/{path}{mark}{options}"
    return os.path.normpath(
        os.path.join(os.path.dirname(os.path.abspath(os.path.expanduser(csv_path))), path)
    )


def names_label_maps(values: Iterable[Any]) -> bool:
    """Whether every value of a column that is not missing is the path of a label map."""
    given = [v for v in values if isinstance(v, str) and v.strip()]
    others = [v for v in values if not isinstance(v, str) and v is not None and v == v]
    return bool(given) and not others and all(v.lower().endswith(LABEL_MAP_SUFFIXES) for v in given)


def _real(path: str) -> str:
    """A local path with all links followed."""
    return path if _URI.match(path) else os.path.realpath(path)


def similar_subjects(subject_ids: Iterable[object]) -> list[str]:
    """A line for each group of ids that differ only in case, leading zeros or a decimal point: perhaps one person."""
    groups: dict[str, set[str]] = {}
    for value in map(str, subject_ids):
        key = value.casefold()
        match = _NUMBER.fullmatch(key)
        groups.setdefault(match.group(1) if match else key, set()).add(value)
    return [
        f"{', '.join(map(repr, sorted(group)))} count as {len(group)} subjects; write the id of one person alike"
        for _, group in sorted(groups.items())
        if len(group) > 1
    ]


def label_values(values: Sequence[str], csv_path: str) -> Sequence[Any]:
    """Numbers if every value is a number or missing, paths if every one is a label map; else text, None if missing."""
    present = [None if v.lower() in _MISSING else v for v in values]
    try:
        return [float("nan") if v is None else float(v) for v in present]
    except ValueError:
        pass
    if names_label_maps(present):
        return [None if v is None else _resolve(v, csv_path) for v in present]
    return present
