"""Calibration is drawn for binary tasks, and its groups hold every held-out subject once."""

from __future__ import annotations

from ctplatform.report import words
from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    calibration,
)
from tests.ctplatform.report.workspace import RUN, copied, replaced


def test_groups_hold_every_subject_of_a_binary_task_once(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    (figure,) = calibration.section(inputs).figures
    assert figure.name == "calibration-emphysema"
    scores, groups = figure.tables
    subjects = inputs.predictions.query("task == 'emphysema'")["subject_id"].nunique()
    names = [words.initialisation(name) for name in inputs.initialisations]
    assert [row[0] for row in scores.rows] == names == [panel.title for panel in figure.panels]
    for name in names:
        assert sum(int(row[-1]) for row in groups.rows if row[0] == name) == subjects
    observed = {row[6] for row in scores.rows}
    rows = inputs.predictions.query("task == 'emphysema' and initialisation == 'drasclr' and fraction == 1.0")
    assert observed == {words.percent(rows.groupby("subject_id")["target"].first().mean())}


def test_without_a_binary_task_the_section_is_left_out(evaluated, recipe, tmp_path):
    workspace = copied(evaluated, tmp_path, f"evaluation/{RUN}")
    for name in ("summary", "predictions"):
        rows = workspace.read_table("evaluation", RUN, f"{name}.parquet").to_pandas()
        replaced(workspace, rows[rows["task"] != "emphysema"], "evaluation", RUN, f"{name}.parquet")
    assert "no task with a probability" in calibration.section(read_inputs(workspace, recipe, run=RUN)).reason
