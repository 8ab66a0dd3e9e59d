"""Label-efficiency curves: the scores of each initialisation by number of training labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Key, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.report.sections import savings

TITLE = "Label efficiency"
FLOOR = {"r2": -1.0}  # R² has no lower bound: one bad fit would compress all other curves


def section(inputs: Inputs) -> Section | Omitted:
    """One figure a task, one chart a metric, one line an initialisation."""
    summary = inputs.summary
    if summary is None:
        return Omitted(TITLE, "this run has no evaluation summary")
    names = inputs.initialisations
    looks = style.styles(names)
    figures = [_figure(inputs, task, summary[summary["task"] == task], names, looks) for task in inputs.tasks]
    return Section(
        "efficiency",
        TITLE,
        [
            "Each line is one initialisation, trained on an increasing share of the training subjects' labels and "
            "scored on the same held-out subjects.",
            *savings.sentences(inputs, inputs.tasks),
        ],
        figures=figures,
        folded=[table for table in (savings.search_table(inputs), _remarks(inputs)) if table],
        tables=[] if inputs.savings is None else [savings.table(inputs.savings)],
    )


def _remarks(inputs: Inputs) -> Table | None:
    if not inputs.remarks:
        return None
    return Table(
        "Trials that the sweep left out",
        ("No.", "Remark"),
        [(str(i), words.without_paths(text)) for i, text in enumerate(inputs.remarks, 1)],
    )


def _figure(
    inputs: Inputs, task: str, rows: pd.DataFrame, names: list[str], looks: dict[str, tuple[str, str]]
) -> Figure:
    present = [name for name in names if (rows["initialisation"] == name).any()]
    metrics = list(dict.fromkeys(rows["metric"]))
    leading = words.leading_metric(metrics)
    metrics.sort(key=lambda m: m != leading)
    seeds = _range(rows, "n_seeds")
    return Figure(
        name=f"efficiency-{words.slug(task)}",
        title=words.sentence(words.task(task)),
        caption=(
            "Points: mean over seeds. Bars: 95% bootstrap interval over held-out subjects. Points of one label share "
            "are offset to be distinguishable."
        ),
        n=f"n = {_range(rows, 'n_test')} held-out subjects" + (f"; {seeds} seeds a point" if seeds else ""),
        interval="95% bootstrap over held-out subjects",
        command=command("sweep", inputs.recipe),
        panels=[
            _panel(task, m, rows[rows["metric"] == m], present, looks, style.panel_width(len(metrics)))
            for m in metrics
        ],
        keys=[Key(words.initialisation(name), looks[name][0], looks[name][1]) for name in present],
        tables=[_table(task, rows, metrics, present)],
    )


def _panel(
    task: str,
    metric: str,
    rows: pd.DataFrame,
    names: list[str],
    looks: dict[str, tuple[str, str]],
    width: float,
) -> Panel:
    fractions = sorted(rows["fraction"].unique())
    chance = _chance(rows)
    floor = FLOOR.get(metric)
    below: list[str] = []

    def draw(axes: Axes) -> None:
        for i, name in enumerate(names):
            part = rows[rows["initialisation"] == name].sort_values("fraction")
            colour, marker = looks[name]
            x = np.array([fractions.index(f) for f in part["fraction"]]) + 0.07 * (i - (len(names) - 1) / 2)
            value, low, high = (part[c].to_numpy(float) for c in ("value", "low", "high"))
            shown = value if floor is None else np.maximum(value, floor)
            if floor is not None and (value < floor).any():
                below.append(words.initialisation(name))
                axes.plot(
                    x[value < floor], shown[value < floor], "v", color=colour, markersize=6, clip_on=False
                )
            ends = (low, high) if floor is None else (np.maximum(low, floor), np.maximum(high, floor))
            axes.vlines(x, *ends, color=colour, linewidth=1.3)
            inside = np.ones(len(x), bool) if floor is None else value >= floor
            axes.plot(x, shown, color=colour, linewidth=1.4)
            axes.plot(x[inside], shown[inside], marker, color=colour, markersize=5.5, linestyle="none")
        if chance is not None:
            axes.update_datalim([(0, chance)])
            axes.autoscale_view()
        axes.set_xticks(range(len(fractions)), [_tick(f, rows) for f in fractions])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.6, len(fractions) - 0.55)
        axes.set_xlabel("share of the training labels")
        if floor is not None and axes.get_ylim()[0] < floor:
            axes.set_ylim(bottom=floor)
        if chance is not None:
            style.reference(axes, chance, "chance")
        direction = "lower is better" if words.lower_is_better(metric) else "higher is better"
        style.ylabel(axes, direction)

    svg = style.chart(
        f"efficiency-{words.slug(task)}-{words.slug(metric)}", draw, width=width, height=0.74 * width
    )
    best = _at_full(rows, names)
    clipped = f"Below the axis, drawn at its edge: {words.listing(dict.fromkeys(below))}." if below else ""
    return Panel(
        f"efficiency-{words.slug(task)}-{words.slug(metric)}",
        words.sentence(words.metric(metric)),
        svg,
        f"{words.metric(metric)} against the share of labels. With all labels: {best}. {clipped}".strip(),
        clipped,
    )


def _tick(fraction: float, rows: pd.DataFrame) -> str:
    n = _range(rows[rows["fraction"] == fraction], "n_train")
    return words.percent(fraction) + (f"\nn = {n}" if n else "")


def _range(rows: pd.DataFrame, column: str) -> str:
    if column not in rows or rows[column].dropna().empty:
        return ""
    low, high = int(rows[column].min()), int(rows[column].max())
    return f"{low:,}" if low == high else f"{low:,}{words.DASH}{high:,}"


def _chance(rows: pd.DataFrame) -> float | None:
    values = rows["chance"].dropna() if "chance" in rows else pd.Series(dtype=float)
    return float(values.median()) if len(values) else None


def _at_full(rows: pd.DataFrame, names: list[str]) -> str:
    full = rows[rows["fraction"] == rows["fraction"].max()].set_index("initialisation")
    return "; ".join(
        f"{words.initialisation(n)} {words.estimate(*map(float, full.loc[n, ['value', 'low', 'high']]))}"
        for n in names
        if n in full.index
    )


def _table(task: str, rows: pd.DataFrame, metrics: list[str], names: list[str]) -> Table:
    ordered = rows.assign(
        _m=rows["metric"].map(metrics.index), _i=rows["initialisation"].map(names.index)
    ).sort_values(["_m", "_i", "fraction"])
    cells = [
        (
            words.initialisation(row.initialisation),
            words.metric(row.metric),
            words.percent(row.fraction),
            words.number(row.value, d := words.digits_for(row.value, row.low, row.high)),
            words.interval(row.low, row.high, d),
            words.number(getattr(row, "chance", float("nan"))),
            _whole(getattr(row, "n_train", None)),
            _whole(row.n_test),
            _whole(getattr(row, "n_seeds", None)),
        )
        for row in ordered.itertuples()
    ]
    return Table(
        f"{words.sentence(words.task(task))}: all points",
        (
            "Initialisation",
            "Metric",
            "Labels",
            "Value",
            "95% interval",
            "Chance",
            "n training",
            "n held out",
            "Seeds",
        ),
        cells,
        numeric=frozenset(range(2, 9)),
    )


def _whole(value: object) -> str:
    return words.DASH if words.missing(value) else f"{int(value):,}"  # type: ignore[call-overload]
