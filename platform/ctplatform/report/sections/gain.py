"""What pretraining gave over a random encoder and over training from scratch: one sentence and one chart."""

from __future__ import annotations

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


def sentence(inputs: Inputs, table: pd.DataFrame) -> str:
    """What pretraining gave in the first task, with the fewest labels."""
    task = table["task"].iloc[0]
    rows = table[table["task"] == task]
    metric, fraction = str(rows["metric"].iloc[0]), float(rows["fraction"].iloc[0])
    parts = []
    for row in rows.itertuples():
        digits = words.digits_for(row.difference, row.low, row.high)
        found = (
            f"difference {words.number(row.difference, digits)}, {words.interval(row.low, row.high, digits)}"
        )
        how = {"better": "better than", "worse": "worse than", "open": "not shown to differ from"}[
            row.verdict
        ]
        parts.append(f"{how} {BASELINES[row.b]} ({found})")
    return (
        f"With {_labels(inputs, str(task), fraction)}, frozen features of the pretrained encoder are, in "
        f"{words.metric(metric)} for {words.task(str(task))}, {words.listing(parts)}."
    )


def _labels(inputs: Inputs, task: str, fraction: float) -> str:
    summary = inputs.summary
    if summary is not None and "n_train" in summary:
        rows = summary[(summary["task"] == task) & (summary["fraction"] == fraction)]["n_train"].dropna()
        if len(rows):
            return words.count(int(rows.iloc[0]), "label")
    return f"{words.percent(fraction)} of the labels"


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
