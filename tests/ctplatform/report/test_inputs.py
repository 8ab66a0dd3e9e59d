"""Inputs are read once, checked for their columns, and a log with a torn or repeated line is one log."""

from __future__ import annotations

import json

import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.errors import StageError
from ctplatform.report.build import build_report
from ctplatform.report.inputs import read_inputs
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.report.workspace import RUN, copied


def test_a_table_without_a_needed_column_is_named(evaluated, recipe, tmp_path):
    workspace = copied(evaluated, tmp_path, f"evaluation/{RUN}/summary.parquet")
    table = workspace.read_table("evaluation", RUN, "summary.parquet").drop_columns(["low"])
    workspace.write_table(table, "evaluation", RUN, "summary.parquet")
    with pytest.raises(StageError, match=r"summary\.parquet lacks the column\(s\) low"):
        build_report(workspace, recipe, run=RUN)


def test_a_resumed_log_is_one_log(recipe, tmp_path):
    lines = [(10, 1.0), (20, 2.0), (30, 3.0), (20, 1.0), (30, 2.0), (40, 3.0)]
    text = "\n".join(json.dumps({"step": s, "loss": i, "seconds": t}) for i, (s, t) in enumerate(lines))
    workspace = Workspace(tmp_path)
    workspace.write_bytes((text + '\n{"step": 5').encode(), "pretrain", RUN, "metrics.jsonl")
    metrics = read_inputs(workspace, recipe, run=RUN).metrics
    assert list(metrics["step"]) == [10, 20, 30, 40]
    assert list(metrics["loss"]) == [0, 3, 4, 5]


def test_tasks_and_initialisations_follow_the_order_of_the_recipe(evaluated):
    tasks, names = ["survival", "gold_stage"], ["density", "drasclr"]
    recipe = load_recipe(
        "demo", [f"sweep.tasks={json.dumps(tasks)}", f"sweep.initialisations={json.dumps(names)}"]
    )
    inputs = read_inputs(evaluated, recipe, run=RUN)
    assert inputs.tasks[:2] == tasks
    assert set(inputs.tasks) == set(inputs.summary["task"])
    assert inputs.initialisations[:2] == names
    assert set(inputs.initialisations) == set(inputs.summary["initialisation"])
