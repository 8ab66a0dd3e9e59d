"""The ablation table: the method without one of its parts, beside the full method, on the same held-out subjects."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.report.sections.comparisons import verdict

TITLE = "Ablations"
FULL = "drasclr"
#: Local loss, global loss, location in the encoder, pretraining.
PARTS = {
    FULL: ("yes", "yes", "yes", "yes"),
    "local": ("yes", "no", "yes", "yes"),
    "global": ("no", "yes", "yes", "yes"),
    "none": ("yes", "yes", "no", "yes"),
    "moco": ("yes", "no", "no", "yes"),
    "random": ("no", "no", "yes", "no"),
}
EDGE = -1.0  # R² has no lower bound


def section(inputs: Inputs) -> Section | Omitted:
    """One chart a task on its main metric with the largest share of labels; the table lists the parts of each."""
    if inputs.summary is None:
        return Omitted(TITLE, "this run has no evaluation summary")
    present = [name for name in PARTS if (inputs.summary["initialisation"] == name).any()]
    if FULL not in present or not set(present) - {FULL, "random"}:
        return Omitted(TITLE, "no ablation was pretrained (sweep.ablations)")
    found = [(task, _rows(inputs.summary, task, present)) for task in inputs.tasks]
    found = [(task, rows) for task, rows in found if FULL in rows.index]
    looks = style.styles(present)
    seeds = int(inputs.summary["n_seeds"].max()) if "n_seeds" in inputs.summary else 0
    width = style.panel_width(len(found))
    figure = Figure(
        name="ablations",
        title="Contribution of each part of the method",
        caption=(
            "Frozen encoders that differ in one part only, otherwise pretrained identically, with the same linear head "
            f"on the same {words.percent(float(inputs.summary['fraction'].max()))} of the labels. The random encoder "
            "is the full architecture without pretraining."
        ),
        n=f"n = {int(inputs.summary['n_test'].max()):,} held-out subjects"
        + (f"; {words.count(seeds, 'seed')} a point" if seeds else ""),
        interval="95% bootstrap over held-out subjects; differences are paired",
        command=command("sweep", inputs.recipe),
        panels=[_panel(task, rows, looks, width) for task, rows in found],
        tables=[_table(inputs, found)],
    )
    text = (
        "Each encoder was pretrained once: the intervals do not include variation between pretraining seeds. A "
        "difference whose interval includes zero is evidence for neither."
    )
    return Section("ablations", TITLE, [text], figures=[figure])


def _rows(summary: pd.DataFrame, task: str, names: list[str]) -> pd.DataFrame:
    rows = summary[summary["task"] == task]
    rows = rows[rows["metric"] == words.leading_metric(rows["metric"])]
    rows = rows[rows["fraction"] == rows["fraction"].max()].drop_duplicates("initialisation")
    rows = rows.set_index("initialisation")
    return rows.loc[[name for name in names if name in rows.index]]


def _panel(task: str, rows: pd.DataFrame, looks: dict[str, tuple[str, str]], width: float) -> Panel:
    metric = str(rows["metric"].iloc[0])
    names = list(rows.index)[::-1]

    def draw(axes: Axes) -> None:
        for y, name in enumerate(names):
            colour, marker = looks[name]
            value, low, high = (float(rows.at[name, key]) for key in ("value", "low", "high"))
            if metric == "r2":
                value, low = max(value, EDGE), max(low, EDGE)
            axes.hlines(y, low, high, color=colour, linewidth=1.5)
            axes.plot(value, y, marker, color=colour, markersize=6)
        axes.set_yticks(range(len(names)), [words.short(words.initialisation(name)) for name in names])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(visible=False)
        axes.grid(visible=True, axis="x")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("lower is better" if words.lower_is_better(metric) else "higher is better")

    described = "; ".join(
        f"{words.initialisation(str(name))} {_estimate(row)}" for name, row in rows.iterrows()
    )
    return Panel(
        f"ablations-{words.slug(task)}",
        f"{words.sentence(words.task(task))}, {words.metric(metric)}",
        style.chart(f"ablations-{words.slug(task)}", draw, width=width, height=0.9 + 0.32 * len(names)),
        f"Ablations, {words.task(task)}: {described}.",
    )


def _table(inputs: Inputs, found: list[tuple[str, pd.DataFrame]]) -> Table:
    cells: list[tuple[str, ...]] = []
    strong: list[int] = []
    for task, rows in found:
        for name, row in rows.iterrows():
            if name == FULL:
                strong.append(len(cells))
            cells.append(
                (
                    words.sentence(words.task(task)),
                    words.initialisation(str(name)),
                    *PARTS[str(name)],
                    words.metric(str(row["metric"])),
                    _estimate(row),
                    *_difference(inputs, task, str(name), str(row["metric"])),
                    f"{int(row['n_test']):,}",
                )
            )
    return Table(
        "Ablations",
        (
            *("Task", "Encoder", "Local loss", "Global loss", "Location", "Pretrained", "Metric"),
            *("Value", "DrasCLR minus this", "Reading", "n held out"),
        ),
        cells,
        numeric=frozenset({7, 8, 10}),
        strong=frozenset(strong),
        note="Bold: the full method. Differences are in the metric's own direction, with a 95% paired interval.",
    )


def _estimate(row: pd.Series) -> str:
    return words.estimate(float(row["value"]), float(row["low"]), float(row["high"]))


def _difference(inputs: Inputs, task: str, name: str, metric: str) -> tuple[str, str]:
    table = inputs.comparisons
    if table is None or name == FULL:
        return words.DASH, words.DASH
    rows = table[
        (table["task"] == task) & (table["metric"] == metric) & (table["b"] == name) & (table["a"] == FULL)
    ]
    if rows.empty:
        return words.DASH, words.DASH
    row = next(rows[rows["fraction"] == rows["fraction"].max()].itertuples())
    reading = {"better": "the part helps", "worse": "better without", "open": "inconclusive"}[verdict(row)]
    return words.estimate(float(row.difference), float(row.low), float(row.high)), reading
