"""The scan table against the recipe: labels and their units, paths, subjects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.checks.cohort import cohort_findings
from ctplatform.pipeline.graph import STAGES


@pytest.fixture
def cohort(tmp_path) -> pd.DataFrame:
    """Sixty scans that are there, with a label of each task of the recipe."""
    for i in range(60):
        (tmp_path / f"{i}.nii").write_bytes(b"x")
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(60)],
            "subject_id": [f"p{i}" for i in range(60)],
            "path": [str(tmp_path / f"{i}.nii") for i in range(60)],
            "series_uid": "",
            "emphysema_extent": rng.uniform(0, 0.4, 60),
            "gold_stage": rng.integers(0, 5, 60),
            "survival_days": rng.integers(1, 900, 60),
            "death": rng.integers(0, 2, 60),
        }
    )


def found(cohort, *overrides, stages=STAGES, local=True) -> list[str]:
    return [f.line() for f in cohort_findings(cohort, load_recipe("fast", overrides), stages, local=local)]


def test_a_good_cohort_has_no_findings(cohort):
    assert found(cohort) == []


def test_percent_in_place_of_shares_is_an_error(cohort):
    percent = cohort.assign(emphysema_extent=cohort["emphysema_extent"] * 100)
    (line,) = found(percent)
    assert line.startswith("error    column emphysema_extent")
    assert "Divide the column by 100" in line
    one = cohort.copy()
    one.loc[3, "emphysema_extent"] = 1.4
    lines = found(one)
    assert all(line.startswith("warning") for line in lines)
    assert "1 label(s) outside [0, 1]" in lines[0]
    assert "1 of 60 subjects have no label" in lines[1]


def test_missing_columns_are_warnings_unless_nothing_else_runs(cohort):
    bare = cohort[["scan_id", "subject_id", "path", "series_uid"]]
    lines = found(bare)
    assert sum("the cohort has no column" in line for line in lines) == 3
    assert not any(line.startswith("error") for line in lines), "the chain leaves the sweep out and goes on"
    assert any(line.startswith("error    labels") for line in found(bare, stages=("sweep",)))
    (line,) = [line for line in found(cohort, "sweep.columns={gold_stage: gold}") if line.startswith("error")]
    assert "Did you mean 'gold_stage'?" in line
    assert "no column 'centre'" in found(cohort, "split.stratify=centre")[0]
    assert found(cohort, "split.stratify=laa950") == []


def test_paths_that_lead_nowhere_are_counted(cohort):
    one = cohort.copy()
    one.loc[7, "path"] = "/nowhere/7.nii"
    (line,) = found(one)
    assert line.startswith("warning  path: nothing is at the path of 1 of 60 scans (s7)")
    (line,) = found(cohort.assign(path=[f"/nowhere/{i}" for i in range(60)]))
    assert line.startswith("error    path")
    assert found(one, local=False) == []
    assert found(one, stages=("sweep",)) == []
    assert found(cohort.assign(path="s3://bucket/x.nii")) == []


def test_subjects_that_may_be_one_are_named(cohort):
    cohort.loc[:2, "subject_id"] = ["007", "7", "7.0"]
    (line,) = found(cohort)
    assert "'007', '7', '7.0' count as 3 subjects" in line


def test_an_atlas_needs_a_cohort_or_a_source(cohort):
    assert "an atlas is built from a cohort" in found(cohort.iloc[:0])[0]
    assert found(cohort.iloc[:0], "atlas.source=/somewhere") == []


def test_a_probe_that_selects_needs_its_labels(cohort):
    by_probe = "pretrain.best_by=probe"
    assert found(cohort, by_probe) == []
    bare = cohort[["scan_id", "subject_id", "path", "series_uid"]]
    for table in (bare, bare.iloc[:0]):
        (line,) = [line for line in found(table, by_probe) if "pretrain.best_by" in line]
        assert line.startswith("error")
        assert "labels of emphysema_extent or gold_stage or survival" in line
    assert not any("best_by" in line for line in found(bare, by_probe, stages=("prepare", "split")))
    one = found(cohort.drop(columns="gold_stage"), by_probe, "pretrain.probe.task=gold_stage")
    assert any("pretrain.best_by: probe needs labels of gold_stage" in line for line in one)
