"""Every point is in the table, and values below the axis are named."""

from __future__ import annotations

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    efficiency,
)
from tests.ctplatform.report.workspace import RUN, copied, replaced


def test_values_below_the_axis_are_named_and_stay_in_the_table(evaluated, recipe, tmp_path):
    workspace = copied(evaluated, tmp_path, f"evaluation/{RUN}")
    rows = workspace.read_table("evaluation", RUN, "summary.parquet").to_pandas()
    low = (
        (rows["task"] == "emphysema_extent") & (rows["metric"] == "r2") & (rows["initialisation"] == "random")
    )
    rows.loc[low, ["value", "low", "high"]] = -7.25, -9.0, -5.0
    replaced(workspace, rows, "evaluation", RUN, "summary.parquet")
    inputs = read_inputs(workspace, recipe, run=RUN)
    figures = {figure.name: figure for figure in efficiency.section(inputs).figures}
    figure = figures["efficiency-emphysema-extent"]
    (panel,) = [panel for panel in figure.panels if panel.name == "efficiency-emphysema-extent-r2"]
    assert panel.detail == "Below the axis, drawn at its edge: Random encoder."
    assert all("Below the axis" not in other.detail for other in figure.panels if other is not panel)
    (table,) = figure.tables
    assert len(table.rows) == (rows["task"] == "emphysema_extent").sum()
    assert sum(cells[3] == "\N{MINUS SIGN}7.25" for cells in table.rows) == low.sum()
