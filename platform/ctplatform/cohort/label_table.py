"""A second table with labels, joined to the scan table by subject or scan."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.cohort.table import COLUMNS, label_values
from ctplatform.errors import CohortError

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("subject_id", "scan_id")
SHOWN = 10
"""Ids shown in one line."""


@dataclass(frozen=True)
class LabelJoin:
    """What came of a join.

    Args:
        table: the scan table with the other table's columns after its own.
        lines: who matched and who did not, for people.
    """

    table: pd.DataFrame
    lines: tuple[str, ...]


def join_label_table(cohort: pd.DataFrame, path: str | Path, *, key: str = "subject_id") -> LabelJoin:
    """Add the columns of a label table to a scan table; scans without a row there have no value in them.

    Ids are compared as text, without surrounding spaces. Columns become numbers, paths of label maps or text as those
    of a scan table do (`read_cohort`).

    Args:
        cohort: as `read_cohort` returns it.
        path: .csv, .tsv, .xlsx or .parquet, one row a key.
        key: "subject_id" or "scan_id"; "subject_id=NAME" where the label table calls it NAME.

    Raises:
        CohortError: the table cannot be read, lacks the key, names an id twice, repeats a column of the scan table, or
            names nobody of it.
    """
    name = Path(path).name
    ours, _, theirs = key.partition("=")
    theirs = theirs or ours
    if ours not in KEYS:
        raise CohortError(
            f"--key {key}: tables are joined by {' or '.join(KEYS)}",
            f"Write --key {KEYS[0]}={ours} if the ids of subjects are in {ours!r}",
            code="key",
        )
    found = _read(Path(path))
    found.columns = [str(column).strip() for column in found.columns]
    if theirs not in found:
        raise CohortError(
            f"{name} has no column {theirs!r}; it has {', '.join(found)}",
            f"Name the one with the ids: --key {ours}=COLUMN",
            code="key",
        )
    ids = found[theirs].str.strip()
    found, ids = found[ids != ""].drop(columns=theirs), ids[ids != ""]
    twice = sorted(set(ids[ids.duplicated()]))
    if twice:
        raise CohortError(
            f"{name} has {len(twice)} id(s) in more than one row: {_some(twice)}",
            "Keep one row each, or join by scan_id",
            code="twice",
        )
    shared = [column for column in found if column in {*cohort.columns, *COLUMNS}]
    if shared:
        raise CohortError(
            f"{name} and the scan table both have {', '.join(map(repr, shared))}",
            f"Rename or remove them in {name}",
            code="columns",
        )
    own = cohort[ours].astype(str)
    known, named = set(ids), dict.fromkeys(own)
    if known.isdisjoint(named):
        raise CohortError(
            f"{name} names none of the scan table's {len(named)} {ours}s: it has {_some(ids[:3].tolist(), 3)}, "
            f"the scan table {_some(list(named), 3)}",
            f"Join by other ids: --key {ours}=COLUMN",
            code="key",
        )
    row_of = {key: row for row, key in enumerate(ids)}
    rows = [row_of.get(key) for key in own]
    table = cohort.copy()
    for column in found:
        texts = found[column].str.strip().tolist()
        # Converted for the joined rows only: a text elsewhere must not make a column of numbers text.
        table[column] = label_values(["" if row is None else texts[row] for row in rows], str(path))
    return LabelJoin(table, tuple(_lines(name, ours, list(found), named, known)))


def _lines(
    name: str, ours: str, columns: Sequence[str], named: Collection[str], known: Collection[str]
) -> list[str]:
    absent = [key for key in named if key not in known]
    extra = sorted(key for key in known if key not in named)
    lines = [
        f"labels: {len(named) - len(absent):,} of {len(named):,} {ours}s are in {name}; columns {', '.join(columns)}"
    ]
    if absent:
        lines.append(f"labels: {len(absent):,} not in {name}: {_some(absent)}")
    if extra:
        lines.append(f"labels: {len(extra):,} in {name} only: {_some(extra)}")
    return lines


def _some(ids: Sequence[str], most: int = SHOWN) -> str:
    more = f" and {len(ids) - most:,} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more


def _read(path: Path) -> pd.DataFrame:
    """All columns as text, missing values empty."""
    import pandas as pd

    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            table = pd.read_parquet(path)
        elif kind == ".xlsx":
            table = pd.read_excel(path, dtype=str, keep_default_na=False)
        elif kind in (".csv", ".tsv"):
            separator = "\t" if kind == ".tsv" else ","
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            raise CohortError(
                f"{path.name} is no table that can be joined",
                "Give .csv, .tsv, .xlsx or .parquet",
                code="unreadable",
            )
    except FileNotFoundError:
        raise CohortError(f"there is no table {path}", "Check the path", code="missing-path") from None
    except ImportError:
        raise CohortError(
            f"{path.name} cannot be read: openpyxl is not installed",
            "pip install 'drasclr[excel]', or save the sheet as CSV",
            code="no-openpyxl",
        ) from None
    except (OSError, ValueError) as error:  # UnicodeDecodeError and pandas' parser errors are ValueErrors
        raise CohortError(
            f"the table {path.name} cannot be read: {error}", "Save it as CSV (UTF-8)", code="unreadable"
        ) from None
    return table.astype(object).where(table.notna(), "").astype(str)
