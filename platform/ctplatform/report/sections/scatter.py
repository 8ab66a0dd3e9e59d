"""Predicted against true values of the held-out subjects, for regression tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs

TITLE = "Predicted and true"
TASKS = ("emphysema_extent", "fev1pp", "fev1_fvc")
LISTED = 400


def section(inputs: Inputs) -> Section | Omitted:
    """One figure a regression task, one chart an initialisation, with the largest share of labels."""
    if inputs.predictions is None:
        return Omitted(TITLE, "this run has no predictions")
    figures = [figure for task in TASKS if (figure := _figure(inputs, inputs.predictions, task))]
    if not figures:
        return Omitted(TITLE, "no regression task was evaluated")
    return Section("scatter", TITLE, figures=figures)


def _figure(inputs: Inputs, predictions: pd.DataFrame, task: str) -> Figure | None:
    rows = predictions[(predictions["task"] == task)]
    if rows.empty or "target" not in rows:
        return None
    rows = rows[(rows["fraction"] == rows["fraction"].max())].dropna(subset=["target", "prediction"])
    if rows.empty:
        return None
    subjects = rows.groupby(["initialisation", "subject_id"])
    means = subjects[["target", "prediction"]].mean()
    spread = subjects["prediction"].agg(["min", "max"])
    order = inputs.initialisations
    present = sorted(
        means.index.unique("initialisation"), key=lambda n: order.index(n) if n in order else len(order)
    )
    looks = style.styles(present)
    target = means["target"].groupby("subject_id").first()
    edge = _limits(means, target)
    name = words.task(task)
    return Figure(
        name=f"scatter-{words.slug(task)}",
        title=words.sentence(name),
        caption=(
            f"Each point is one held-out subject, with {words.percent(rows['fraction'].max())} of the training labels: "
            "mean prediction over seeds, and a bar from the lowest to the highest seed. On the diagonal, prediction "
            "and true value are equal. Predictions beyond the axes are drawn at the edge."
        ),
        n=f"n = {words.count(len(target), 'held-out subject')}; {words.count(rows['seed'].nunique(), 'seed')}",
        interval="bars are the range over seeds, not an interval; the score above each chart has its 95% interval",
        command=command("sweep", inputs.recipe),
        panels=[_panel(inputs, task, i, means.loc[i].join(spread.loc[i]), looks[i], edge) for i in present],
        tables=[_table(name, target, means, present)],
    )


def _limits(means: pd.DataFrame, target: pd.Series) -> tuple[float, float]:
    """Limits of both axes: the range of true values, extended by up to half of it where predictions need it."""
    low, high = float(target.min()), float(target.max())
    room = 0.5 * (high - low) or 1.0
    low = max(low - room, min(low, float(means["prediction"].min())))
    high = min(high + room, max(high, float(means["prediction"].max())))
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _panel(
    inputs: Inputs, task: str, name: str, rows: pd.DataFrame, look: tuple[str, str], edge: tuple[float, float]
) -> Panel:
    colour, marker = look

    def draw(axes: Axes) -> None:
        axes.plot(edge, edge, color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        low, high, value = (np.clip(rows[c].to_numpy(float), *edge) for c in ("min", "max", "prediction"))
        axes.vlines(rows["target"], low, high, color=colour, linewidth=0.9, alpha=0.45)
        axes.plot(
            rows["target"],
            value,
            marker,
            color=colour,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
        axes.set_xlim(edge)
        axes.set_ylim(edge)
        axes.set_aspect("equal")
        axes.set_xlabel(f"true {words.short(words.task(task), 30)}")
        style.ylabel(axes, "predicted")

    score = _score(inputs, task, name)
    title = words.initialisation(name)
    return Panel(
        f"scatter-{words.slug(task)}-{words.slug(name)}",
        title,
        style.chart(f"scatter-{words.slug(task)}-{words.slug(name)}", draw, height=3.7),
        f"Predicted against true {words.task(task)} of {len(rows)} held-out subjects. {title}: {score}.",
        score,
    )


def _score(inputs: Inputs, task: str, name: str) -> str:
    summary = inputs.summary
    if summary is None:
        return ""
    rows = summary[(summary["task"] == task) & (summary["initialisation"] == name)]
    if rows.empty:
        return ""
    rows = rows[rows["fraction"] == rows["fraction"].max()]
    row = rows[rows["metric"] == words.leading_metric(rows["metric"])].iloc[0]
    return f"{words.metric(row['metric'])} {words.estimate(row['value'], row['low'], row['high'])}"


def _table(name: str, target: pd.Series, means: pd.DataFrame, present: list[str]) -> Table:
    wide = means["prediction"].unstack("initialisation")
    show = words.digits_for(float(target.mean()), float(target.min()), float(target.max())) + 1
    rows = [
        (
            str(subject),
            words.number(value, show),
            *(words.number(wide.loc[subject].get(i), show) for i in present),
        )
        for subject, value in list(target.sort_values().items())[:LISTED]
    ]
    left = len(target) - len(rows)
    return Table(
        f"{words.sentence(name)} of the held-out subjects, mean over seeds",
        ("Subject", "True", *map(words.initialisation, present)),
        rows,
        numeric=frozenset(range(1, 2 + len(present))),
        note=f"{left:,} more are in predictions.parquet." if left > 0 else "",
    )
