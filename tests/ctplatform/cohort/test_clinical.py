"""Clinical tables joined to a scan table: NLST's by its own column names, and a user's by a mapping file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctplatform.cohort.clinical import join_labels, read_mapping
from ctplatform.cohort.table import read_cohort, write_cohort
from ctplatform.errors import CohortError
from ctplatform.tasks import get_task


def scans(*visits: tuple[str, int], collection: str = "nlst") -> pd.DataFrame:
    """A scan table: (PatientID, screening year)."""
    return pd.DataFrame(
        {
            "scan_id": [f"s{n}" for n in range(len(visits))],
            "subject_id": [f"{collection}-{patient}" for patient, _ in visits],
            "path": [f"s3://idc-open-data/{n}" for n in range(len(visits))],
            "series_uid": [f"1.{n}" for n in range(len(visits))],
            "collection": collection,
            "study_date": [f"{1999 + year}-01-02" for _, year in visits],
        }
    )


#: As CDAS delivers the Participant dataset: numbers, and letters for what is missing.
PARTICIPANTS = """pid,age,gender,cigsmok,pkyr,can_scr,candx_days,fup_days,death_days,scr_days0,scr_days1,scr_days2
100002,66,1,0,54.5,0,.N,2500,.N,10,380,740
100004,60,2,1,30,1,100,2400,900,8,.M,.M
100005,58,2,1,41,4,2000,2300,.N,.M,400,760
100006,71,1,1,80,2,50,700,700,5,.M,.M
"""


@pytest.fixture
def participants(tmp_path: Path) -> Path:
    file = tmp_path / "participant.csv"
    file.write_text(PARTICIPANTS)
    return file


def test_nlst_by_its_own_names(participants: Path) -> None:
    table = scans(("100002", 1), ("100002", 2), ("100004", 0), ("100005", 0), ("999999", 0))
    joined = join_labels(table, participants, read_mapping("nlst"), collection="nlst")
    found = joined.table.set_index("scan_id")
    assert found["age"].tolist()[:4] == [66, 66, 60, 58]
    assert found["sex"].tolist()[:4] == ["M", "M", "F", "F"]
    assert found["current_smoker"].tolist()[:4] == [0, 0, 1, 1]
    assert found["pack_years"].tolist()[:4] == [54.5, 54.5, 30, 41]
    assert found["lung_cancer"].tolist()[:4] == [0, 0, 1, 1]
    assert found["death"].tolist()[:4] == [0, 0, 1, 0]
    # From the first scan in the table, in both rows of a person; unknown where its day is.
    assert found["survival_days"].tolist()[:3] == [2500 - 380, 2500 - 380, 900 - 8]
    assert found["lung_cancer_days"].tolist()[:3] == [2500 - 380, 2500 - 380, 100 - 8]
    assert np.isnan(found["survival_days"].iloc[3])
    assert found.loc["s4", ["age", "death", "survival_days"]].isna().all()
    assert joined.unmatched == 1
    assert joined.subjects["death"] == 3
    assert "label survival_days: 2 of 4 subjects" in joined.lines()
    assert joined.lines()[-1] == "1 subjects are not in the clinical table"


def test_what_ended_before_the_scan_is_no_outcome_of_it(participants: Path) -> None:
    table = scans(("100006", 0))
    mapping = read_mapping("nlst")
    assert join_labels(table, participants, mapping, collection="nlst").table[
        "lung_cancer_days"
    ].tolist() == [45]
    participants.write_text(
        PARTICIPANTS.replace("100006,71,1,1,80,2,50,700,700,5", "100006,71,1,1,80,2,50,700,700,60")
    )
    early = join_labels(table, participants, mapping, collection="nlst").table
    assert early["lung_cancer_days"].isna().all()
    assert early["survival_days"].tolist() == [640]


def test_the_survival_task_reads_them(participants: Path, tmp_path: Path) -> None:
    table = scans(("100002", 1), ("100002", 2), ("100004", 0))
    joined = join_labels(table, participants, read_mapping("nlst"), collection="nlst")
    write_cohort(joined.table, tmp_path / "cohort.csv")
    labels = get_task("survival").labels(read_cohort(tmp_path / "cohort.csv"))
    assert labels.subjects == ("nlst-100002", "nlst-100004")
    assert labels.targets.event_N is not None
    assert labels.targets.event_N.tolist() == [0, 1]


def test_the_table_of_the_imaging_data_commons_has_no_deaths(tmp_path: Path) -> None:
    people = pd.DataFrame(
        {
            "dicom_patient_id": ["100002"], "pid": ["7"], "age": [66], "gender": [1], "cigsmok": [0], "can_scr": [0],
            "candx_days": [None], "canc_free_days": [2400], "scr_days0": ["10"],
        }
    )  # fmt: skip
    people.to_parquet(tmp_path / "nlst_prsn.parquet")
    joined = join_labels(
        scans(("100002", 0)), tmp_path / "nlst_prsn.parquet", read_mapping("nlst"), collection="nlst"
    )
    assert joined.absent == {
        "pack_years": ["pkyr"],
        "lung_cancer_days": ["fup_days"],
        "death": ["death_days", "fup_days"],
        "survival_days": ["death_days", "fup_days"],
    }
    assert joined.table[["age", "sex", "current_smoker", "lung_cancer"]].iloc[0].tolist() == [66, "M", 0, 0]
    assert "label death: left out, the table has no death_days or fup_days" in joined.lines()


def test_a_mapping_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "version: 1\nkey: [Patient]\ncolumns:\n  gold_stage: {take: GOLD}\n  fev1pp: {first_of: [post, pre]}\n"
    )
    (tmp_path / "c.csv").write_text("Patient,GOLD,post,pre\nLIDC-1,2,,70\nLIDC-2,,55,50\n")
    table = pd.concat(
        [scans(("LIDC-1", 0), ("LIDC-2", 0), collection="lidc"), scans(("LIDC-1", 0))], ignore_index=True
    )
    mapping = read_mapping("lidc", tmp_path / "m.yaml")
    found = join_labels(table, tmp_path / "c.csv", mapping, collection="lidc").table
    assert found["fev1pp"].tolist()[:2] == [70, 55]
    assert found["gold_stage"].tolist()[:1] == [2]
    assert found.loc[2, ["fev1pp", "gold_stage"]].isna().all(), "a person of another collection"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 2\nkey: [a]\ncolumns: {x: {take: a}}", "version is 2"),
        ("version: 1\ncolumns: {x: {take: a}}", "key is no list"),
        ("version: 1\nkey: [a]\ncolumns: {x: {taken: a}}", "label x"),
        ("version: 1\nkey: [a]", "columns is no table"),
        ("- 1", "no table of keys"),
        ("{", "cannot be read"),
    ],
)
def test_mappings_that_cannot_be_used(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(CohortError, match=said) as error:
        read_mapping("x", tmp_path / "m.yaml")
    assert error.value.code == "mapping"


def test_a_collection_without_a_mapping(tmp_path: Path) -> None:
    for file in (None, tmp_path / "none.yaml"):
        with pytest.raises(CohortError, match="there is no mapping"):
            read_mapping("lidc_idri", file)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("id,age\n1,2\n", "no-key"),
        ("pid,age\n1,2\n1,3\n", "repeated-subjects"),
        ("pid,age\n1,2\n", "no-subjects"),
    ],
)
def test_tables_that_cannot_be_joined(text: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(CohortError) as error:
        join_labels(scans(("100002", 0)), tmp_path / "c.csv", read_mapping("nlst"), collection="nlst")
    assert error.value.code == code
    with pytest.raises(CohortError) as error:
        join_labels(scans(("100002", 0)), tmp_path / "none.csv", read_mapping("nlst"), collection="nlst")
    assert error.value.code == "unreadable"
