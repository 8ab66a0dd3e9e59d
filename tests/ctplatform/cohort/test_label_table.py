"""A second table with labels."""

import pandas as pd
import pytest

from ctplatform.cohort.label_table import join_label_table
from ctplatform.errors import CohortError


@pytest.fixture
def cohort() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "scan_id": ["a", "b", "c"],
            "subject_id": ["1", "1", "2"],
            "path": "x",
            "series_uid": "",
            "age": [1, 1, 2],
        }
    )


def write(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_scan_of_a_subject_gets_the_label(cohort, tmp_path):
    path = write(tmp_path, "\ufeffID,score,sex,map\n1, 2.5,M,m/1.nii.gz\n9,high,F,m/9.nii.gz\n")
    joined = join_label_table(cohort, path, key="subject_id=ID")
    assert joined.table["score"].tolist()[:2] == [2.5, 2.5]  # `high` is in a row that is not joined
    assert pd.isna(joined.table["score"][2])
    assert joined.table["sex"].tolist() == ["M", "M", None]
    assert joined.table["map"][0] == str(tmp_path / "m" / "1.nii.gz")
    assert joined.lines == (
        "labels: 1 of 2 subject_ids are in labels.csv; columns score, sex, map",
        "labels: 1 not in labels.csv: 2",
        "labels: 1 in labels.csv only: 9",
    )
    assert list(cohort) == ["scan_id", "subject_id", "path", "series_uid", "age"]


def test_scans_and_other_formats(cohort, tmp_path):
    table = pd.DataFrame({"scan_id": ["c", "a"], "score": [3.0, None]})
    table.to_parquet(tmp_path / "labels.parquet")
    write(tmp_path, table.to_csv(sep="\t", index=False), "labels.tsv")
    for name in ("labels.parquet", "labels.tsv"):
        scores = join_label_table(cohort, tmp_path / name, key="scan_id").table["score"]
        assert scores.isna().tolist() == [True, True, False]
        assert scores[2] == 3.0


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("ID,score\n1,2\n", "subject_id", "no column 'subject_id'; it has ID, score"),
        ("ID,score\n1,2\n", "PatientID", "--key subject_id=PatientID"),
        ("subject_id,score\n1,2\n1,3\n", "subject_id", r"1 id\(s\) in more than one row: 1"),
        ("subject_id,age\n1,2\n", "subject_id", "both have 'age'"),
        ("subject_id,score\n01,2\n", "subject_id", "none of the scan table's 2 subject_ids: it has 01"),
    ],
)
def test_what_cannot_be_joined_is_said(cohort, tmp_path, text, key, message):
    with pytest.raises(CohortError, match=message):
        join_label_table(cohort, write(tmp_path, text), key=key)


def test_what_cannot_be_read_is_said(cohort, tmp_path):
    with pytest.raises(CohortError, match="no table"):
        join_label_table(cohort, tmp_path / "none.csv")
    with pytest.raises(CohortError, match=r"\.xlsx or \.parquet"):
        join_label_table(cohort, write(tmp_path, "x", "labels.sav"))
    with pytest.raises(CohortError, match="cannot be read"):
        join_label_table(cohort, write(tmp_path, "no workbook", "labels.xlsx"))
