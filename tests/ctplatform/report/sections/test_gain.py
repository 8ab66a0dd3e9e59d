"""What pretraining gave is said as the paired differences have it, with the fewest labels."""

from __future__ import annotations

import dataclasses
import re

import pytest

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import gain, summary
from tests.ctplatform.report.workspace import RUN

MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def inputs(evaluated, recipe):
    """The evaluated run, in which pretraining is better, worse or neither, by task and baseline."""
    found = read_inputs(evaluated, recipe, run=RUN)
    rows = found.comparisons.copy()
    least = rows["fraction"] == rows["fraction"].min()
    rows.loc[least & (rows["b"] == "random"), ["difference", "low", "high"]] = 0.3, 0.1, 0.5
    rows.loc[least & (rows["b"] == "scratch"), ["difference", "low", "high"]] = -0.2, -0.3, -0.1
    open_ = least & (rows["task"] == "gold_stage") & (rows["b"] == "scratch")
    rows.loc[open_, ["difference", "low", "high"]] = 0.1, -0.1, 0.3
    return dataclasses.replace(found, comparisons=rows)


def with_labels(inputs, first, others):
    """The inputs with so many labels at the least fraction of the first task, and of the others."""
    summary = inputs.summary.copy()
    least = summary["fraction"] == summary["fraction"].min()
    is_first = summary["task"] == inputs.tasks[0]
    summary.loc[least & is_first, "n_train"] = first
    summary.loc[least & ~is_first, "n_train"] = others
    return dataclasses.replace(inputs, summary=summary)


def test_the_sentence_has_the_differences_of_all_tasks(inputs):
    table = gain.gains(inputs)
    text = gain.sentence(inputs, table)
    assert "better than a random encoder in emphysema extent (R², difference 0.30, 0.10 to 0.50)" in text
    lower = f"difference {MINUS}0.20, {MINUS}0.30 to {MINUS}0.10"
    assert f"worse than training from scratch in emphysema extent (R², {lower})" in text
    assert f"difference {MINUS}" not in text.split("; not shown to differ from it in ")[1]
    assert text.count("(") == len(table)
    assert "With 9 to 12 labels" in gain.sentence(with_labels(inputs, 9, 12), table)
    n_train = int(inputs.summary.sort_values("fraction")["n_train"].iloc[0])
    assert f"With {n_train} labels" in text


def test_an_interval_across_zero_is_no_difference(inputs):
    table = gain.gains(inputs)
    text = gain.sentence(inputs, table[table["task"] == "gold_stage"])
    found = f"difference 0.10, {MINUS}0.10 to 0.30"
    assert re.search(
        rf"not shown to differ from training from scratch in GOLD stage \([^,]*, {found}\)", text
    )


def test_the_summary_starts_with_it_and_shows_all_tasks(inputs):
    section = summary.section(inputs)
    table = gain.gains(inputs)
    assert section.paragraphs[0] == gain.sentence(inputs, table)
    (figure,) = section.figures
    (panel,) = figure.panels
    assert set(table["task"]) == set(inputs.comparisons["task"])
    assert len(table) == 2 * table["task"].nunique()
    assert panel.alt.count(" over ") == len(table)
    assert "<svg" in panel.svg


def test_an_error_metric_counts_the_other_way(inputs):
    rows = inputs.comparisons.copy()
    errors = rows[(rows["task"] == "emphysema_extent") & (rows["metric"] == "mae")]
    table = gain.gains(dataclasses.replace(inputs, comparisons=errors))
    random = table[table["b"] == "random"].iloc[0]
    assert random["difference"] == 0.3  # a larger error
    assert random["verdict"] == "worse"


def test_without_baselines_there_is_no_sentence(inputs):
    others = inputs.comparisons[inputs.comparisons["b"] == "density"]
    without = dataclasses.replace(inputs, comparisons=others)
    assert gain.gains(without).empty
    assert not summary.section(without).figures
