"""The ablation table lists the parts of each encoder and its paired difference."""

from __future__ import annotations

import pytest

from ctplatform.report import words
from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    ablations,
)
from tests.ctplatform.report.workspace import RUN


def test_the_ablation_table_says_what_each_lacks_and_by_how_much(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    (table,) = ablations.section(inputs).figures[0].tables
    rows = {cells[1]: cells for cells in table.rows if cells[0] == "Emphysema extent"}
    assert list(rows) == ["DrasCLR", "Local loss only", "No conditioning", "Random encoder"]
    assert rows["Local loss only"][2:6] == ("yes", "no", "yes", "yes")
    assert rows["No conditioning"][2:6] == ("yes", "yes", "no", "yes")
    expected = inputs.comparisons.query(
        "task == 'emphysema_extent' and metric == 'r2' and fraction == 1.0 and b == 'local'"
    )["difference"].item()
    shown = float(rows["Local loss only"][8].split()[0].replace("\N{MINUS SIGN}", "-"))
    assert shown == pytest.approx(expected, abs=0.006)
    assert rows["DrasCLR"][8] == words.DASH
