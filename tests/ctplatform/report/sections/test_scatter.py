"""Points are means over seeds, and the axes contain every true value."""

from __future__ import annotations

import numpy as np

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    scatter,
)
from tests.ctplatform.report.workspace import RUN


def test_the_table_has_the_mean_over_seeds_by_true_value(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    (figure,) = scatter.section(inputs).figures
    assert figure.name == "scatter-emphysema-extent"
    (table,) = figure.tables
    rows = inputs.predictions.query("task == 'emphysema_extent' and fraction == 1.0")
    truth = rows.groupby("subject_id")["target"].first().sort_values()
    assert [cells[0] for cells in table.rows] == list(truth.index)
    column = table.header.index("DrasCLR")
    means = rows[rows["initialisation"] == "drasclr"].groupby("subject_id")["prediction"].mean()
    shown = [float(cells[column].replace("\N{MINUS SIGN}", "-")) for cells in table.rows]
    np.testing.assert_allclose(shown, means[truth.index], atol=0.006)
