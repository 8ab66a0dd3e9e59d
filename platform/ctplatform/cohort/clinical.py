"""Clinical tables of public collections, joined to a scan table under the names that tasks read.

A mapping file says which columns make which label; that of NLST is part of the platform (clinical_mappings/nlst.yaml),
others are given. Its keys:

    version   1
    key       columns that may hold the collection's PatientID; the first one that the table has is used
    missing   texts that stand for no value, beside those of every scan table
    columns   label -> one of
        {take: COLUMN, values: {FROM: TO}}                values as they are, or translated
        {first_of: [COLUMN, ...], from_scan: PREFIX}      the first that is given; less PREFIX0, PREFIX1, ... of the
                                                          year of the person's first scan in the table
        {present: COLUMN, known_by: [COLUMN, ...]}        1 where COLUMN is given, 0 where another of known_by is
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform.errors import CohortError

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
_MAPPINGS = Path(__file__).parent / "clinical_mappings"
_FORMS = ({"take"}, {"take", "values"}, {"first_of"}, {"first_of", "from_scan"}, {"present", "known_by"})
#: NLST's dates are coded: the year of the screening round (TCIA).
_FIRST_YEAR = {"nlst": 1999}


@dataclass(frozen=True)
class Join:
    """What came of a join.

    Attributes:
        table: the scan table with the labels as further columns.
        subjects: label -> subjects that have it.
        absent: label -> columns that the clinical table lacks.
        unmatched: subjects of the scan table that the clinical table does not name.
    """

    table: pd.DataFrame
    subjects: dict[str, int]
    absent: dict[str, list[str]]
    unmatched: int

    def lines(self) -> list[str]:
        """For people."""
        total = self.table["subject_id"].nunique()
        lines = [f"label {label}: {count:,} of {total:,} subjects" for label, count in self.subjects.items()]
        lines += [
            f"label {label}: left out, the table has no {' or '.join(names)}"
            for label, names in self.absent.items()
        ]
        return (
            [*lines, f"{self.unmatched:,} subjects are not in the clinical table"]
            if self.unmatched
            else lines
        )


def read_mapping(collection: str, file: str | Path | None = None) -> dict[str, Any]:
    """The mapping of a collection, or one of the user's.

    Raises:
        CohortError: there is none, or it is of another version or form.
    """
    import yaml

    path = Path(file) if file else _MAPPINGS / f"{collection}.yaml"
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CohortError(
            f"there is no mapping of clinical columns for {collection}"
            if not file
            else f"there is no mapping {file}",
            "Give one with --mapping; docs/reference/inputs.md says what it holds",
            code="mapping",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CohortError(
            f"the mapping {path.name} cannot be read: {error}", "Correct it", code="mapping"
        ) from None
    problems = _problems(mapping)
    if problems:
        raise CohortError(
            f"the mapping {path.name} cannot be used: {'; '.join(problems)}", "Correct it", code="mapping"
        )
    checked: dict[str, Any] = mapping
    return checked


def join_labels(
    table: pd.DataFrame, clinical: str | Path, mapping: dict[str, Any], *, collection: str
) -> Join:
    """Add the labels of one collection to a scan table; the rows of other collections get none.

    Args:
        table: as `public_cohort` makes it.
        clinical: CSV or Parquet, one row a person.
        mapping: as `read_mapping` returns it.
        collection: whose people the clinical table describes.

    Raises:
        CohortError: the clinical table cannot be read, has no key, names a person twice, or names nobody of the table.
    """
    people = _read(Path(clinical), mapping)
    own = table["collection"] == collection
    patient = table["subject_id"].str.removeprefix(f"{collection}-")
    first = _first_year(table[own], collection)
    matched = patient[own].isin(people.index)
    if not matched.any():
        raise CohortError(
            f"the clinical table names none of the {patient[own].nunique():,} subjects of {collection}",
            f"Check that it has their PatientID, such as {patient[own].iloc[0]}, in {' or '.join(mapping['key'])}",
            code="no-subjects",
        )
    result, counts, absent = table.copy(), {}, {}
    for label, rule in mapping["columns"].items():
        needed = (
            [rule["take"]] if "take" in rule else rule.get("first_of") or [rule["present"], *rule["known_by"]]
        )
        missing = [name for name in dict.fromkeys(needed) if name not in people]
        if missing:
            absent[label] = missing
            continue
        values = _label(people, rule, first)
        result[label] = patient.map(values).where(own)
        counts[label] = int(result.loc[result[label].notna(), "subject_id"].nunique())
    return Join(result, counts, absent, int(patient[own][~matched].nunique()))


def _read(file: Path, mapping: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    try:
        if file.suffix == ".parquet":
            people = pd.read_parquet(file).astype(object)
        else:
            people = pd.read_csv(file, dtype=str, keep_default_na=True, na_values=mapping.get("missing", []))
    except (OSError, ValueError) as error:
        raise CohortError(
            f"the clinical table {file.name} cannot be read: {error}", "Check it", code="unreadable"
        ) from None
    people = people.where(~people.isin([*mapping.get("missing", []), ""]), None)
    key = next((name for name in mapping["key"] if name in people), None)
    if key is None:
        raise CohortError(
            f"the clinical table {file.name} has no column {' or '.join(mapping['key'])}",
            "Name the column with the PatientID under `key` of a mapping file (--mapping)",
            code="no-key",
        )
    people = people.dropna(subset=[key])
    people[key] = people[key].astype(str).str.removesuffix(".0")
    twice = int(people[key].duplicated().sum())
    if twice:
        raise CohortError(
            f"the clinical table {file.name} has {twice:,} person(s) more than once",
            "Give a table with one row a person",
            code="repeated-subjects",
        )
    return people.set_index(key)


def _first_year(table: pd.DataFrame, collection: str) -> pd.Series:
    """PatientID -> screening year of the first scan; 0 where the collection has no coded dates."""
    import pandas as pd

    patient = table["subject_id"].str.removeprefix(f"{collection}-")
    year = pd.to_numeric(table["study_date"].astype(str).str[:4], errors="coerce")
    return (year - _FIRST_YEAR.get(collection, year.min())).groupby(patient).min()


def _label(people: pd.DataFrame, rule: dict[str, Any], first: pd.Series) -> pd.Series:
    import pandas as pd

    def number(name: str) -> pd.Series:
        return pd.to_numeric(people[name], errors="coerce")

    if "take" in rule:
        if "values" not in rule:
            return number(rule["take"])
        return number(rule["take"]).map({float(key): value for key, value in rule["values"].items()})
    if "present" in rule:
        known = pd.concat([number(name) for name in rule["known_by"]], axis=1).notna().any(axis=1)
        return number(rule["present"]).notna().astype(float).where(known)
    days = number(rule["first_of"][0])
    for name in rule["first_of"][1:]:
        days = days.fillna(number(name))
    prefix = rule.get("from_scan")
    if not prefix:
        return days
    year = pd.Series(people.index.map(first), index=people.index)
    start = pd.Series(float("nan"), index=people.index)
    for at in (0, 1, 2):
        if f"{prefix}{at}" in people:
            start = start.where(year != at, number(f"{prefix}{at}"))
    left = days - start
    return left.where(left >= 0)  # before the scan: no outcome of it


def _problems(mapping: Any) -> list[str]:
    if not isinstance(mapping, dict):
        return ["it is no table of keys"]
    problems = []
    if mapping.get("version") != VERSION:
        problems.append(f"version is {mapping.get('version')!r}, and {VERSION} is read")
    if not isinstance(mapping.get("key"), list) or not mapping["key"]:
        problems.append("key is no list of columns")
    columns = mapping.get("columns")
    if not isinstance(columns, dict) or not columns:
        return [*problems, "columns is no table of labels"]
    return problems + [
        f"label {label} has not one of the forms take, first_of, present"
        for label, rule in columns.items()
        if not isinstance(rule, dict) or set(rule) not in _FORMS
    ]
