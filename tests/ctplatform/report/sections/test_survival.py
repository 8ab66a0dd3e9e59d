"""Numbers at risk are counted from the times; risk groups are even and ordered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    survival,
)
from tests.ctplatform.report.workspace import RUN


def test_numbers_at_risk_are_counted_from_the_times(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    rows = inputs.predictions.query("task == 'survival' and initialisation == 'drasclr' and fraction == 1.0")
    table = survival.at_risk_table("drasclr", survival.group(rows))
    times = rows.groupby("subject_id")["time"].first()
    marks = {cells[1] for cells in table.rows}
    assert len(marks) > 2
    for mark in marks:
        at_risk = sum(int(cells[2]) for cells in table.rows if cells[1] == mark)
        assert at_risk == int((times >= float(mark) * 365.25).sum())


@pytest.mark.parametrize(("n", "groups"), [(29, 2), (30, 3), (46, 3)])
def test_risk_groups_are_even_and_ordered(n, groups):
    rng = np.random.default_rng(n)
    risk = rng.normal(size=n)
    rows = pd.concat(
        pd.DataFrame(
            {
                "subject_id": [f"s{i}" for i in range(n)],
                "seed": seed,
                "prediction": risk * scale,  # seeds may differ in scale: only the order counts
                "time": rng.exponential(np.exp(-2 * risk) * 1000) + 1,
                "event": 1.0,
            }
        )
        for seed, scale in ((0, 1.0), (1, 50.0))
    )
    rows["time"] = rows.groupby("subject_id")["time"].transform("first")
    grouped = survival.group(rows)
    sizes = grouped.rows["group"].value_counts()
    assert len(sizes) == groups == grouped.groups
    assert sizes.max() - sizes.min() <= 1
    order = pd.Series(risk, [f"s{i}" for i in range(n)])
    highest = [order[grouped.rows.index[grouped.rows["group"] == g]].max() for g in range(groups)]
    lowest = [order[grouped.rows.index[grouped.rows["group"] == g]].min() for g in range(groups)]
    assert all(high < low for high, low in zip(highest, lowest[1:]))
    assert grouped.p < 0.01
