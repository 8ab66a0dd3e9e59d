"""Costs are sums over trials, configurations and resumed runs."""

from __future__ import annotations

import pandas as pd

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    provenance,
)
from ctplatform.report.sections.provenance import elapsed
from tests.ctplatform.report.workspace import RUN


def test_searched_configurations_have_their_cost(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    cost = {cells[0]: cells[1] for cells in provenance.cost_table(inputs).rows}
    assert cost["Search of hyper-parameters"] == "18 configurations"


def test_time_of_a_resumed_run_is_the_sum():
    assert elapsed(pd.Series([1.0, 2.0, 3.0, 0.5, 4.0])) == 7.0
