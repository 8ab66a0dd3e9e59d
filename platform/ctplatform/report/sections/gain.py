"""What pretraining gave over a random encoder and over training from scratch: one sentence and one chart."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Key, Panel
from ctplatform.report.inputs import Inputs
from ctplatform.report.sections.comparisons import draw_differences, held_out, table_of, verdict

OURS = "drasclr"
BASELINES = {"random": "a random encoder", "scratch": "training from scratch"}
SHORT = {"random": "random encoder", "scratch": "from scratch"}
MARKERS = {"random": "o", "scratch": "s"}


def gains(inputs: Inputs) -> pd.DataFrame:
    """Paired differences of the pretrained encoder's frozen features with the fewest labels, a row a task and baseline.

    Each task has its leading metric only; `verdict` says for which of the two the difference speaks.
    """
    table = inputs.comparisons
    if table is None or table.empty:
        return pd.DataFrame()
    pairs = table[(table["a"] == OURS) & table["b"].isin(BASELINES)]
    found = []
    for task in inputs.tasks:
        rows = pairs[pairs["task"] == task]
        if rows.empty:
            continue
        rows = rows[rows["fraction"] == rows["fraction"].min()]
        rows = rows[rows["metric"] == words.leading_metric(dict.fromkeys(rows["metric"]))].copy()
        rows["verdict"] = [verdict(row) for row in rows.itertuples()]
        found.append(rows.drop_duplicates("b"))
    return pd.concat(found) if found else pd.DataFrame()


VERDICTS = {"better": "better than {}", "worse": "worse than {}", "open": "not shown to differ from {}"}


def sentence(inputs: Inputs, table: pd.DataFrame) -> str:
    """What pretraining gave in every task, with the fewest labels; a clause each baseline and verdict."""
    clauses = []
    for baseline in dict.fromkeys(table["b"]):
        rows = table[table["b"] == baseline]
        name = BASELINES[baseline]
        for found, how in VERDICTS.items():
            tasks = words.listing(_difference(row) for row in rows.itertuples() if row.verdict == found)
            if tasks:
                clauses.append(f"{how.format(name)} in {tasks}")
                name = "it"
    return (
        f"With {_labels(inputs, table)}, frozen features of the pretrained encoder are {'; '.join(clauses)}."
    )


def _difference(row: Any) -> str:
    """A task with its metric, difference and interval."""
    digits = words.digits_for(row.difference, row.low, row.high)
    return (
        f"{words.task(str(row.task))} ({words.metric(str(row.metric))}, difference "
        f"{words.number(row.difference, digits)}, {words.interval(row.low, row.high, digits)})"
    )


def _labels(inputs: Inputs, table: pd.DataFrame) -> str:
    """The number of labels, or the range over tasks."""
    summary = inputs.summary
    least = table.drop_duplicates("task").set_index("task")["fraction"]
    if summary is not None and "n_train" in summary:
        rows = summary[summary["fraction"] == summary["task"].map(least)]["n_train"].dropna()
        if len(rows):
            low, high = int(rows.min()), int(rows.max())
            return words.count(low, "label") if low == high else f"{low:,} to {high:,} labels"
    return f"{words.percent(float(least.min()))} of the labels"


def figure(inputs: Inputs, table: pd.DataFrame) -> Figure:
    """The differences of all tasks."""
    items = list(table.itertuples())

    def draw(axes: Axes) -> None:
        draw_differences(
            axes,
            items,
            markers=[MARKERS[str(row.b)] for row in items],
            labels=[
                f"{words.short(words.sentence(words.task(str(row.task))))}\nover {SHORT[str(row.b)]}"
                for row in items
            ],
        )
        axes.set_xlabel("gain by pretraining")

    described = "; ".join(
        f"{words.task(str(row.task))}, {words.metric(str(row.metric))}, over {BASELINES[str(row.b)]}: "
        f"{words.estimate(row.difference, row.low, row.high)}"
        for row in items
    )
    return Figure(
        name="gain",
        title="What pretraining gave, with the fewest labels",
        caption=(
            "Each task in its own metric. Right of zero, frozen features of the pretrained encoder are better (error "
            "metrics have their sign reversed). Filled: the interval excludes zero. Arrow: it extends beyond the chart."
        ),
        n=f"n = {held_out(table)} held-out subjects",
        interval="95% paired bootstrap over held-out subjects",
        command=command("sweep", inputs.recipe),
        panels=[
            Panel(
                "gain",
                "Pretrained minus the other, both on the same held-out subjects",
                style.chart("gain", draw, width=style.WIDE, height=0.8 + 0.42 * len(items)),
                f"Gain by pretraining: {described}.",
            )
        ],
        keys=[
            Key("Pretraining is better", style.BLUE),
            Key("Pretraining is worse", style.VERMILION),
            Key("Inconclusive: the interval includes zero", style.GREY),
        ],
        tables=[table_of(table)],
    )
