"""Labels that a sweep cannot read are named before anything runs."""

import logging

import pandas as pd
import pytest

from ctplatform.cli.main import main
from ctplatform.config.loader import validate
from ctplatform.errors import ConfigError
from ctplatform.evaluation.requirements import check_requirements


def recipe(*names, **tasks):
    return validate({"tasks": tasks, "sweep": {"tasks": list(names)}})


WALK = {"kind": "regression", "column": "walk_m"}


def test_all_problems_are_found_at_once():
    cohort = pd.DataFrame({"scan_id": ["a"], "walk": [1.0], "empty": [None]})
    empty = {"kind": "count", "column": "empty"}
    with pytest.raises(ConfigError) as error:
        check_requirements(recipe("survivl", "walk", "empty", walk=WALK, empty=empty), cohort)
    text = str(error.value)
    assert "sweep.tasks: there is no task 'survivl'" in text
    assert "Did you mean 'survival'?" in text
    assert "tasks.walk: the cohort has no column 'walk_m'; did you mean 'walk'?" in text
    assert "tasks.empty: the cohort's column 'empty' is empty" in text


def test_vectors_that_are_not_of_this_cohort_are_named(tmp_path):
    (tmp_path / "v.csv").write_text("scan_id,f\nz,1\n")
    settings = validate({"sweep": {"external": {"theirs": str(tmp_path / "v.csv"), "gone": "gone.parquet"}}})
    with pytest.raises(ConfigError) as error:
        check_requirements(settings, pd.DataFrame({"scan_id": ["a"]}))
    assert "v.csv has vectors of none of the cohort's scans" in str(error.value)
    assert "sweep.external.gone: there is no table of vectors gone.parquet" in str(error.value)


def test_columns_of_the_platforms_tasks_may_be_absent(caplog):
    with caplog.at_level(logging.WARNING):
        check_requirements(recipe("survival", walk=WALK), pd.DataFrame({"scan_id": ["a"]}))
    assert "tasks.walk is not among sweep.tasks" in caplog.text


def test_the_command_ends_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "scan.nii.gz").touch()
    (tmp_path / "cohort.csv").write_text("scan_id,subject_id,path\na,s1,scan.nii.gz\n")
    (tmp_path / "labels.tsv").write_text("subject_id\twalk\ns1\t400\n")
    command = ["run", "--cohort", str(tmp_path / "cohort.csv"), "--workspace", str(tmp_path / "ws")]
    command += ["--labels", str(tmp_path / "labels.tsv"), "--set", "sweep.tasks=[walk]"]
    command += ["--set", "tasks.walk={kind: regression, column: walk_m}"]
    with pytest.raises(SystemExit):
        main(command)
    found = capsys.readouterr()
    assert "labels: 1 of 1 subject_ids are in labels.tsv; columns walk" in found.out
    assert "did you mean 'walk'?" in found.err
    assert not (tmp_path / "ws").exists()
