"""Reading, checking and writing the scan table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctplatform.cohort.table import (
    COLUMNS,
    names_label_maps,
    read_cohort,
    similar_subjects,
    write_cohort,
)
from ctplatform.errors import CohortError


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def problem_of(tmp_path: Path, text: str) -> CohortError:
    with pytest.raises(CohortError) as caught:
        read_cohort(table(tmp_path / "cohort.csv", text))
    return caught.value


class TestReadCohort:
    def test_defaults_and_relative_paths(self, tmp_path: Path) -> None:
        text = "scan_id,path\na,scans/a.nii.gz\nb,/data/b\nc,s3://bucket/c.nii.gz\nd,../d\n"
        cohort = read_cohort(table(tmp_path / "cohort.csv", text))
        assert list(cohort.columns) == list(COLUMNS)
        assert list(cohort["subject_id"]) == ["a", "b", "c", "d"]
        assert list(cohort["series_uid"]) == [""] * 4
        assert list(cohort["path"]) == [
            str(tmp_path / "scans" / "a.nii.gz"),
            "/data/b",
            "s3://bucket/c.nii.gz",
            str(tmp_path.parent / "d"),
        ]

    def test_ids_stay_text_and_labels_become_numbers_where_all_are(self, tmp_path: Path) -> None:
        text = (
            "path,fev1pp,scan_id,site,subject_id,gold\n"
            "x, 81.5 ,001,Graz,007,0\n"
            'y,NA,002,"Linz, north",,2\n'
            "\n"
            "z,,003,,007,4\n"
        )
        cohort = read_cohort(table(tmp_path / "cohort.csv", text))
        assert list(cohort.columns) == [*COLUMNS, "fev1pp", "site", "gold"]
        assert list(cohort["scan_id"]) == ["001", "002", "003"]
        assert list(cohort["subject_id"]) == ["007", "002", "007"]
        assert cohort["fev1pp"].tolist()[0] == 81.5
        assert cohort["fev1pp"].isna().tolist() == [False, True, True]
        assert cohort["site"].tolist()[:2] == ["Graz", "Linz, north"]
        assert cohort["site"].isna().tolist() == [False, False, True]
        assert cohort["gold"].tolist() == [0, 2, 4]

    def test_columns_of_label_maps_are_found_as_scans_are(self, tmp_path: Path) -> None:
        text = "scan_id,path,map,note\na,a.nii.gz,maps/a.nii.gz,x.mha\nb,b.nii.gz,,plain\nc,c,s3://b/c.MHA,\n"
        cohort = read_cohort(table(tmp_path / "cohort.csv", text))
        assert cohort["map"].tolist() == [str(tmp_path / "maps" / "a.nii.gz"), None, "s3://b/c.MHA"]
        assert cohort["note"].tolist() == ["x.mha", "plain", None]
        assert [name for name in cohort if names_label_maps(cohort[name].tolist())] == ["map"]

    def test_written_is_read(self, tmp_path: Path) -> None:
        cohort = pd.DataFrame(
            {
                "age": [61.0, np.nan],
                "path": ["/data/a,b", "/data/ä"],
                "scan_id": ["s1", "s2"],
                "subject_id": ["p", "p"],
                "series_uid": ["1.2", ""],
                "sex": ["f", None],
            }
        )
        write_cohort(cohort, tmp_path / "new" / "cohort.csv")
        again = read_cohort(tmp_path / "new" / "cohort.csv")
        pd.testing.assert_frame_equal(again[cohort.columns], cohort, check_dtype=False)
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["cohort.csv"]
        assert read_cohort((tmp_path / "new" / "cohort.csv").as_uri()).equals(again)

    def test_duplicate_scan_id_names_both_rows(self, tmp_path: Path) -> None:
        error = problem_of(tmp_path, "scan_id,path\nct-1,a\nct-2,b\nct-1,c\n")
        assert "rows 2 and 4: scan_id 'ct-1' occurs twice" in error.problem

    def test_rows_are_those_of_the_file(self, tmp_path: Path) -> None:
        error = problem_of(tmp_path, 'scan_id,path,note\nct-1,a,"two\nlines"\n\nct-1,b,\n')
        assert "rows 3 and 5:" in error.problem

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("scan_id,file\na,b\n", "column 'path' is missing"),
            ("path\nb\n", "column 'scan_id' is missing"),
            ("scan_id;path\na;b\n", "not separated by commas"),
            ("scan_id,path,path\na,b,c\n", "column 'path' occurs twice"),
            ("scan_id,path,\na,b,c\n", "column 3 has no name"),
            ("scan_id,path\n", "no rows"),
            ("", "empty"),
            ("scan_id,path\na,b,c\n", "row 2: 3 values where the header names 2"),
            ("scan_id,path\n../a,b\n", "row 2: scan_id '../a' becomes part of file names"),
            ("scan_id,path\na b,c\n", "row 2: scan_id 'a b'"),
            ("scan_id,path\n.a,c\n", "row 2: scan_id '.a'"),
            (f"scan_id,path\n{'a' * 101},c\n", "at most 100"),
            ("scan_id,path\nä,c\n", "row 2: scan_id 'ä'"),
            ("scan_id,path\n,c\n", "row 2: scan_id is empty"),
            ("scan_id,path\na,\n", "row 2: path is empty"),
            ("scan_id,path,subject_id\na,b,x/y\n", "row 2: subject_id 'x/y'"),
            ("scan_id,path\nA,b\na,c\n", "rows 2 and 3: scan_id 'a' occurs twice"),
            ("scan_id,path\na,x.nii\nb,x.nii\n", "rows 2 and 3: the same scan twice"),
            ('scan_id,path\na,"x\n', "quotation marks"),
        ],
    )
    def test_problems_in_words(self, tmp_path: Path, text: str, shown: str) -> None:
        assert shown in str(problem_of(tmp_path, text))

    def test_every_problem_has_a_line_and_a_long_list_is_cut(self, tmp_path: Path) -> None:
        error = problem_of(tmp_path, "scan_id,path\na,x\na,y\nb c,\n")
        assert len(error.problem.splitlines()) == 1 + 4
        many = "scan_id,path\n" + "".join(f"a b,{i}\n" for i in range(500))
        error = problem_of(tmp_path, many)
        assert len(error.problem.splitlines()) < 30
        assert "more" in error.problem

    def test_no_table(self, tmp_path: Path) -> None:
        with pytest.raises(CohortError, match="there is no cohort table"):
            read_cohort(tmp_path / "none.csv")
        (tmp_path / "book.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00")
        with pytest.raises(CohortError, match="UTF-8"):
            read_cohort(tmp_path / "book.csv")

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self, tmp_path: Path) -> None:
        (tmp_path / "cohort.csv").write_bytes(b"\xef\xbb\xbfscan_id,path\r\na,b\r\n")
        assert list(read_cohort(tmp_path / "cohort.csv")["scan_id"]) == ["a"]

    def test_a_series_of_a_folder_each(self, tmp_path: Path) -> None:
        text = "scan_id,path,series_uid\na,f,1.2\nb,f,1.3\n"
        assert list(read_cohort(table(tmp_path / "cohort.csv", text))["series_uid"]) == ["1.2", "1.3"]


def test_a_label_named_like_a_column_of_the_ledger_is_refused(tmp_path: Path) -> None:
    error = problem_of(tmp_path, "scan_id,path,state,notes,kernel\na,x.nii,1,2,B30f\n")
    assert "2 problem(s)" in str(error)
    assert "column 'state' has the name of a column of the ledger" in str(error)


def test_paths_are_compared_with_all_links_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for same in ("link/a.nii", "real/../real/a.nii", str(tmp_path / "real" / "a.nii")):
        assert "the same scan twice" in str(problem_of(tmp_path, f"scan_id,path\na,real/a.nii\nb,{same}\n"))


def test_subjects_that_differ_in_zeros_case_or_a_point_are_named() -> None:
    assert similar_subjects(["7", "7", "8"]) == []
    assert similar_subjects(["007", "7", "7.0", "P1", "p1", "x"]) == [
        "'007', '7', '7.0' count as 3 subjects; write the id of one person alike",
        "'P1', 'p1' count as 2 subjects; write the id of one person alike",
    ]


def test_the_acquisition_may_stand_in_the_table_other_columns_of_the_ledger_may_not(tmp_path):
    head = "scan_id,path,kernel,manufacturer,kvp,exposure_mas,ctdi_vol_mgy"
    file = tmp_path / "cohort.csv"
    file.write_text(f"{head}\na,/a,B30f,SIEMENS,120,40,2.5\n", encoding="utf-8")
    assert read_cohort(file)["kernel"].tolist() == ["B30f"]
    file.write_text("scan_id,path,laa950\na,/a,0.1\n", encoding="utf-8")
    with pytest.raises(CohortError, match="'laa950' has the name of a column of the ledger"):
        read_cohort(file)
