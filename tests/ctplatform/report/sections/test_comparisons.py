"""The reading of a paired difference follows its interval and the direction of the metric."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctplatform.report import words
from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    comparisons,
)
from tests.ctplatform.report.workspace import RUN


@pytest.mark.parametrize(
    ("metric", "low", "high", "reading"),
    [
        ("r2", 0.1, 0.3, "better"),
        ("r2", -0.3, -0.1, "worse"),
        ("mae", 0.1, 0.3, "worse"),
        ("mae", -0.3, -0.1, "better"),
        ("r2", -0.1, 0.3, "open"),
        ("mae", 0.0, 0.3, "open"),
    ],
)
def test_errors_are_better_when_lower(metric, low, high, reading):
    (row,) = pd.DataFrame({"metric": [metric], "low": [low], "high": [high]}).itertuples()
    assert comparisons.verdict(row) == reading


def test_every_comparison_is_in_the_table_and_clear_ones_are_bold(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    (figure,) = comparisons.section(inputs).figures
    (table,) = figure.tables
    rows = inputs.comparisons
    assert len(table.rows) == len(rows)
    clear = np.flatnonzero((rows["low"] > 0) | (rows["high"] < 0))
    assert table.strong == frozenset(clear.tolist())
    assert [cells[6] == "inconclusive" for cells in table.rows] == [i not in clear for i in range(len(rows))]
    assert {panel.title.partition(",")[0] for panel in figure.panels} == {
        words.sentence(words.task(task)) for task in rows["task"]
    }
