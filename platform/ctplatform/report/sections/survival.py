"""Kaplan-Meier curves of the held-out subjects, grouped by predicted risk, with numbers at risk and log-rank test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Key, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.report.sections.hazards import DAYS_PER_YEAR, hazard_figure, horizon_figure

TITLE = "Survival"
TASK = "survival"
SMALL = 30  # with fewer subjects thirds would hold fewer than ten each: two halves instead
COLOURS = {2: (style.BLUE, style.VERMILION), 3: (style.BLUE, style.ORANGE, style.VERMILION)}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
SHORT = {2: ("low", "high"), 3: ("low", "mid", "high")}
NAMES = {
    2: ("lower half of risk", "upper half of risk"),
    3: ("lowest third", "middle third", "highest third"),
}


@dataclass(frozen=True)
class Grouped:
    """Held-out subjects of one initialisation: time (days), event, risk group 0 (low) upwards; log-rank p."""

    rows: pd.DataFrame
    groups: int
    p: float


def section(inputs: Inputs) -> Section | Omitted:
    """One chart an initialisation, with the largest share of labels."""
    predictions = inputs.predictions
    if predictions is None or not {"time", "event"} <= set(predictions.columns):
        return Omitted(TITLE, "this run has no survival predictions")
    rows = predictions[predictions["task"] == TASK].dropna(subset=["time", "event", "prediction"])
    if rows.empty:
        return Omitted(TITLE, "this run has no survival predictions")
    rows = rows[rows["fraction"] == rows["fraction"].max()]
    order = inputs.initialisations or sorted(rows["initialisation"].unique())
    grouped = {
        name: group(rows[rows["initialisation"] == name])
        for name in order
        if (rows["initialisation"] == name).any()
    }
    first = next(iter(grouped.values()))
    events = int(first.rows["event"].sum())
    names, colours = NAMES[first.groups], COLOURS[first.groups]
    figure = Figure(
        name="survival",
        title=f"By {'third' if first.groups == 3 else 'half'} of predicted risk",
        caption=(
            f"Held-out subjects ranked by predicted risk, with {words.percent(float(rows['fraction'].max()))} of the "
            "training labels (mean rank over seeds). Bands: 95% intervals (log-log). Ticks: censored. The log-rank "
            "test compares the curves of all groups."
        ),
        n=f"n = {words.count(len(first.rows), 'held-out subject')}, {words.count(events, 'death')}",
        interval="95% intervals of Kaplan and Meier's estimate",
        command=command("sweep", inputs.recipe),
        panels=[_panel(name, item) for name, item in grouped.items()],
        keys=[Key(f"{words.sentence(n)} ({s})", c) for n, s, c in zip(names, SHORT[first.groups], colours)],
        tables=[_tests(grouped), *(at_risk_table(name, item) for name, item in grouped.items())],
    )
    notices = []
    if events < 10:
        notices.append(
            f"Only {words.count(events, 'death')} among the held-out subjects: these curves are imprecise."
        )
    share = float(rows["fraction"].max())
    more = (
        horizon_figure(inputs, TASK),
        hazard_figure(inputs, {n: g.rows for n, g in grouped.items()}, share),
    )
    return Section("survival", TITLE, figures=[figure, *filter(None, more)], notices=notices)


def group(rows: pd.DataFrame) -> Grouped:
    """Group subjects by mean rank of predicted risk over seeds; higher predictions mean higher risk."""
    from lifelines.statistics import multivariate_logrank_test

    seeds = rows.groupby("seed")["prediction"]
    # Seeds may differ in scale: ranks are averaged, and for models of the risk itself standardised values.
    standard = (rows["prediction"] - seeds.transform("mean")) / seeds.transform("std").where(
        lambda s: s > 0, 1.0
    )
    ranked = rows.assign(rank=seeds.rank(pct=True), risk=standard)
    subjects = (
        ranked.groupby("subject_id")
        .agg(time=("time", "first"), event=("event", "first"), rank=("rank", "mean"), risk=("risk", "mean"))
        .sort_values("rank", kind="stable")
    )
    groups = 2 if len(subjects) < SMALL else 3
    position = np.arange(len(subjects)) * groups // max(1, len(subjects))
    subjects = subjects.assign(group=position, event=subjects["event"].astype(bool))
    if not subjects["event"].any() or subjects["group"].nunique() < 2:
        return Grouped(subjects, groups, float("nan"))
    test = multivariate_logrank_test(subjects["time"], subjects["group"], subjects["event"])
    return Grouped(subjects, groups, float(test.p_value))


def _panel(name: str, grouped: Grouped) -> Panel:
    from lifelines import KaplanMeierFitter

    rows, marks = grouped.rows, _ticks(grouped.rows)

    def draw(axes: Axes) -> None:
        for i, colour in enumerate(COLOURS[grouped.groups]):
            part = rows[rows["group"] == i]
            if part.empty:
                continue
            fit = KaplanMeierFitter().fit(part["time"] / DAYS_PER_YEAR, part["event"])
            curve, band = fit.survival_function_, fit.confidence_interval_
            axes.fill_between(
                band.index,
                band.iloc[:, 0],
                band.iloc[:, 1],
                step="post",
                color=colour,
                alpha=0.13,
                linewidth=0,
            )
            axes.step(
                curve.index, curve.iloc[:, 0], where="post", color=colour, linewidth=1.8, linestyle=DASHES[i]
            )
            censored = part.loc[~part["event"], "time"].to_numpy(float) / DAYS_PER_YEAR
            if len(censored):
                axes.plot(censored, fit.predict(censored), "|", color=colour, markersize=5)
            at_risk = [int((part["time"] / DAYS_PER_YEAR >= mark).sum()) for mark in marks]
            _below(axes, (-24, -44 - 13 * i), SHORT[grouped.groups][i], (0, 0))
            for mark, n in zip(marks, at_risk):
                _below(axes, (0, -44 - 13 * i), f"{n}", (mark, 0))
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, float(rows["time"].max()) / DAYS_PER_YEAR * 1.02)
        axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axes.set_xlabel("years; below: number at risk")
        style.ylabel(axes, "share alive")

    title, detail = words.initialisation(name), f"log-rank {words.p_value(grouped.p)}"
    return Panel(
        f"survival-{words.slug(name)}",
        title,
        style.chart(f"survival-{words.slug(name)}", draw, height=3.4),
        f"Kaplan-Meier curves of {len(rows)} held-out subjects in {grouped.groups} groups of predicted risk. "
        f"{title}: {detail}.",
        detail,
    )


def _below(axes: Axes, offset: tuple[float, float], text: str, at: tuple[float, float]) -> None:
    """Write below the axis, at a time and an offset in points."""
    axes.annotate(
        text,
        at,
        xycoords=("data", "axes fraction"),
        xytext=offset,
        textcoords="offset points",
        ha="center",
        fontsize=9,
    )


def _ticks(rows: pd.DataFrame) -> Sequence[float]:
    years = float(rows["time"].max()) / DAYS_PER_YEAR
    step = next((s for s in (0.25, 0.5, 1.0, 2.0, 5.0) if years / s <= 7), 10.0)
    return [float(mark) for mark in np.arange(0, years + 1e-9, step)]


def _tests(grouped: dict[str, Grouped]) -> Table:
    return Table(
        "Log-rank test over the risk groups",
        ("Initialisation", "Groups", "n", "Deaths", "Log-rank"),
        [
            (
                words.initialisation(name),
                f"{item.groups}",
                f"{len(item.rows)}",
                f"{int(item.rows['event'].sum())}",
                words.p_value(item.p),
            )
            for name, item in grouped.items()
        ],
        numeric=frozenset({1, 2, 3, 4}),
        note="Not corrected for the number of tests.",
    )


def at_risk_table(name: str, grouped: Grouped) -> Table:
    """Numbers at risk and Kaplan-Meier estimates of each group at the ticks of the chart."""
    from lifelines import KaplanMeierFitter

    cells = []
    for i, label in enumerate(NAMES[grouped.groups]):
        part = grouped.rows[grouped.rows["group"] == i]
        if part.empty:
            continue
        years = part["time"] / DAYS_PER_YEAR
        fit = KaplanMeierFitter().fit(years, part["event"])
        for mark in _ticks(grouped.rows):
            band = fit.confidence_interval_.loc[: mark + 1e-12].iloc[-1]
            cells.append(
                (
                    words.sentence(label),
                    f"{mark:g}",
                    f"{int((years >= mark).sum())}",
                    f"{int(part.loc[years <= mark, 'event'].sum())}",
                    words.number(float(fit.predict(mark))),
                    words.interval(float(band.iloc[0]), float(band.iloc[1])),
                )
            )
    return Table(
        f"{words.initialisation(name)}: numbers at risk",
        ("Group", "Years", "At risk", "Deaths so far", "Share alive", "95% interval"),
        cells,
        numeric=frozenset(range(1, 6)),
    )
