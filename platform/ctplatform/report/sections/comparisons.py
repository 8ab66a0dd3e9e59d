"""Paired comparisons between initialisations on the same held-out subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Key, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs

TITLE = "Comparisons"
# A resample without spread has an R² of minus hundreds: such an interval is cut, with an arrow.
EDGE = {"r2": 1.5}
_COLOURS = {"better": style.BLUE, "worse": style.VERMILION, "open": style.GREY}


def section(inputs: Inputs) -> Section | Omitted:
    """Differences with all labels as a chart a task; every comparison in the table."""
    table = inputs.comparisons
    if table is None:
        return Omitted(TITLE, "this run has no paired comparisons")
    full = table[table["fraction"] == table["fraction"].max()]
    found = [task for task in inputs.tasks or dict.fromkeys(full["task"]) if (full["task"] == task).any()]
    parts = [full[full["task"] == task] for task in found]
    parts = [rows[rows["metric"] == words.leading_metric(dict.fromkeys(rows["metric"]))] for rows in parts]
    panels = [_panel(task, rows, style.panel_width(len(found))) for task, rows in zip(found, parts)]
    clear = sum(verdict(row) != "open" for row in table.itertuples())
    figure = Figure(
        name="comparisons",
        title="Paired differences on the same held-out subjects",
        caption=(
            f"With {words.percent(float(full['fraction'].max()))} of the labels. Right of zero, the first named is "
            "better (error metrics have their sign reversed). Filled: the interval excludes zero. Arrow: it "
            "extends beyond the chart."
        ),
        n=f"n = {held_out(table)} held-out subjects; {words.count(len(table), 'comparison')} in the table",
        interval="95% paired bootstrap over held-out subjects",
        command=command("sweep", inputs.recipe),
        panels=panels,
        keys=[
            Key("First is better", style.BLUE, "o"),
            Key("First is worse", style.VERMILION, "s"),
            Key("Inconclusive: the interval includes zero", style.GREY, "o-"),
        ],
        tables=[table_of(table, "All paired comparisons")],
    )
    text = (
        f"{clear} of {words.count(len(table), 'comparison')} have an interval that excludes zero. The intervals are "
        "not corrected for their number: about one in twenty would do so by chance alone."
    )
    return Section("comparisons", TITLE, [text], figures=[figure])


def verdict(row: object) -> str:
    """ "better", "worse" or "open", for the first named of a comparison (fields metric, low, high)."""
    low, high = float(row.low), float(row.high)  # type: ignore[attr-defined]
    if not (low > 0 or high < 0):
        return "open"
    return "better" if (low > 0) != words.lower_is_better(row.metric) else "worse"  # type: ignore[attr-defined]


def held_out(table: pd.DataFrame) -> str:
    """Number of held-out subjects, or their range over tasks."""
    if "n_test" not in table or table["n_test"].dropna().empty:
        return words.DASH
    low, high = int(table["n_test"].min()), int(table["n_test"].max())
    return f"{low:,}" if low == high else f"{low:,}{words.DASH}{high:,}"


def _label(row: object) -> str:
    first, second = row.a, row.b  # type: ignore[attr-defined]
    return f"{words.short(words.initialisation(first))}\nminus {words.short(words.initialisation(second))}"


def _panel(task: str, rows: pd.DataFrame, width: float) -> Panel:
    metric = str(rows["metric"].iloc[0])
    items = list(rows.itertuples())
    markers = ["s" if verdict(row) == "worse" else "o" for row in items]

    def draw(axes: Axes) -> None:
        draw_differences(axes, items, markers=markers, labels=[_label(row) for row in items])
        axes.set_xlabel("difference")

    described = "; ".join(
        f"{words.initialisation(r.a)} minus {words.initialisation(r.b)} "
        f"{words.estimate(r.difference, r.low, r.high)}"
        for r in items
    )
    return Panel(
        f"comparisons-{words.slug(task)}",
        f"{words.sentence(words.task(task))}, {words.metric(metric)}",
        style.chart(f"comparisons-{words.slug(task)}", draw, width=width, height=0.8 + 0.45 * len(items)),
        f"Paired differences, {words.task(task)}: {described}.",
    )


def draw_differences(
    axes: Axes, rows: Sequence[Any], *, markers: Sequence[str], labels: Sequence[str]
) -> None:
    """Paired differences from top to bottom, right of zero where the first named is better; filled if clear of zero.

    Args:
        axes: drawn on.
        rows: of comparisons: metric, difference, low, high.
        markers: one a row.
        labels: one a row.
    """
    axes.axvline(0, color=style.MUTED, linewidth=1)
    for y, (row, marker) in enumerate(zip(reversed(rows), reversed(markers), strict=True)):
        edge = EDGE.get(str(row.metric), float("inf"))
        sign = -1.0 if words.lower_is_better(str(row.metric)) else 1.0
        low, high = sorted((sign * row.low, sign * row.high))
        colour = _COLOURS[verdict(row)]
        axes.hlines(y, max(low, -edge), min(high, edge), color=colour, linewidth=1.5)
        for beyond, x, arrow in ((low < -edge, -edge, "<"), (high > edge, edge, ">")):
            if beyond:
                axes.plot(x, y, arrow, color=colour, markersize=6, clip_on=False)
        axes.plot(
            min(max(sign * row.difference, -edge), edge),
            y,
            marker,
            color=colour,
            markerfacecolor="white" if verdict(row) == "open" else colour,
            markersize=6,
        )
    axes.set_yticks(range(len(rows)), list(reversed(labels)))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(visible=False)
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def table_of(table: pd.DataFrame, caption: str = "Paired comparisons") -> Table:
    """Comparisons in words and numbers, a row each."""
    cells, strong = [], []
    for i, row in enumerate(table.itertuples()):
        digits = words.digits_for(row.difference, row.low, row.high)
        cells.append(
            (
                words.sentence(words.task(row.task)),
                words.metric(row.metric),
                words.percent(row.fraction),
                f"{words.initialisation(row.a)} − {words.initialisation(row.b)}",
                words.number(row.difference, digits),
                words.interval(row.low, row.high, digits),
                {"better": "first better", "worse": "first worse", "open": "inconclusive"}[verdict(row)],
                words.p_value(row.p) if not words.missing(getattr(row, "p", None)) else words.DASH,
                words.DASH if words.missing(getattr(row, "n_test", None)) else f"{int(row.n_test):,}",
            )
        )
        if verdict(row) != "open":
            strong.append(i)
    return Table(
        caption,
        ("Task", "Metric", "Labels", "Difference", "Value", "95% interval", "Reading", "p", "n held out"),
        cells,
        numeric=frozenset({2, 4, 5, 7, 8}),
        strong=frozenset(strong),
        note="Bold: the interval excludes zero. Differences are in the metric's own direction.",
    )
