"""Calibration of predicted probabilities on the held-out subjects: curves, slope and calibration in the large."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ctplatform.errors import ConfigError
from ctplatform.metrics.calibration import Bin, Calibration, bins, calibrate
from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Key, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.tasks import get_task

TITLE = "Calibration"


def section(inputs: Inputs) -> Section | Omitted:
    """One figure a binary task, one chart an initialisation, with the largest share of labels."""
    if inputs.predictions is None:
        return Omitted(TITLE, "this run has no predictions")
    found = [
        task for task in inputs.tasks or dict.fromkeys(inputs.predictions["task"]) if _is_binary(inputs, task)
    ]
    figures = [figure for task in found if (figure := _figure(inputs, inputs.predictions, task))]
    if not figures:
        return Omitted(TITLE, "no task with a probability was evaluated")
    text = (
        "Predictions are calibrated if, for example, 30 in 100 subjects with a predicted probability of 30% have the "
        "event. The slope is 1 if predictions are as spread as the outcomes, and less if they are too extreme; "
        "calibration in the large is 0 if they are correct on average, and negative if they are too high."
    )
    return Section("calibration", TITLE, [text], figures=figures)


def _is_binary(inputs: Inputs, task: str) -> bool:
    try:
        return get_task(task, inputs.recipe.tasks).kind == "binary"
    except ConfigError:
        return False


def _figure(inputs: Inputs, predictions: pd.DataFrame, task: str) -> Figure | None:
    rows = predictions[predictions["task"] == task]
    rows = rows[rows["fraction"] == rows["fraction"].max()].dropna(subset=["target", "prediction"])
    order = inputs.initialisations
    names = sorted(
        rows["initialisation"].unique(), key=lambda n: order.index(n) if n in order else len(order)
    )
    fits: dict[str, tuple[Calibration, list[Bin]]] = {}
    for name in names:
        wide = rows[rows["initialisation"] == name].pivot(
            index="subject_id", columns="seed", values="prediction"
        )
        truth = rows[rows["initialisation"] == name].groupby("subject_id")["target"].first().loc[wide.index]
        wide = wide.dropna()
        outcome_N = truth.loc[wide.index].to_numpy(float)
        if len(outcome_N) < 2 or len(np.unique(outcome_N)) < 2:
            continue
        probability_SN = wide.to_numpy(float).T
        fit = calibrate(outcome_N, probability_SN, bootstrap=min(1000, inputs.recipe.sweep.bootstrap))
        fits[name] = fit, bins(outcome_N, probability_SN.mean(0))
    if not fits:
        return None
    looks = style.styles(fits)
    first = next(iter(fits.values()))[0]
    return Figure(
        name=f"calibration-{words.slug(task)}",
        title=words.sentence(words.task(task)),
        caption=(
            f"With {words.percent(float(rows['fraction'].max()))} of the training labels. Each point is a group of "
            "subjects of similar prediction (mean over seeds), its bar Wilson's 95% interval of the share that has the "
            "event. Dashed line: perfect calibration."
        ),
        n=f"n = {words.count(first.n, 'held-out subject')}, {words.percent(first.observed)} with the event",
        interval="slope and calibration in the large: 95% bootstrap over held-out subjects",
        command=command("sweep", inputs.recipe),
        panels=[_panel(task, name, *fits[name], looks[name]) for name in fits],
        keys=[Key("Perfect calibration", style.MUTED, "-", dashed=True)],
        tables=[_scores(task, fits), _groups(task, fits)],
    )


def _panel(task: str, name: str, fit: Calibration, groups: list[Bin], look: tuple[str, str]) -> Panel:
    colour, marker = look

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        x = [group.predicted for group in groups]
        axes.vlines(x, [g.low for g in groups], [g.high for g in groups], color=colour, linewidth=1.3)
        axes.plot(x, [g.observed for g in groups], marker, color=colour, markersize=5.5, linestyle="none")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_aspect("equal")
        axes.set_xlabel("predicted probability")
        style.ylabel(axes, "share with the event")

    title, detail = words.initialisation(name), f"slope {words.estimate(*fit.slope)}"
    return Panel(
        f"calibration-{words.slug(task)}-{words.slug(name)}",
        title,
        style.chart(f"calibration-{words.slug(task)}-{words.slug(name)}", draw, height=3.7),
        f"Share with the event against predicted probability in {words.count(len(groups), 'group')} of held-out "
        f"subjects. {title}: {detail}.",
        detail,
    )


def _scores(task: str, fits: dict[str, tuple[Calibration, list[Bin]]]) -> Table:
    rows = [
        (
            words.initialisation(name),
            words.number(fit.slope[0]),
            words.interval(*fit.slope[1:]),
            words.number(fit.in_the_large[0]),
            words.interval(*fit.in_the_large[1:]),
            words.percent(fit.predicted),
            words.percent(fit.observed),
            f"{fit.n:,}",
        )
        for name, (fit, _) in fits.items()
    ]
    head = (
        "Initialisation",
        "Slope",
        "95% interval",
        "In the large",
        "95% interval",
        "Mean predicted",
        "Observed",
        "n",
    )
    return Table(
        f"{words.sentence(words.task(task))}: slope and calibration in the large",
        head,
        rows,
        numeric=frozenset(range(1, 8)),
        note=(
            "In the large: difference of the log odds. A slope from few subjects is imprecise: read its interval. If a "
            "model cannot discriminate, its predictions are all near the mean, and the slope is uninformative."
        ),
    )


def _groups(task: str, fits: dict[str, tuple[Calibration, list[Bin]]]) -> Table:
    rows = [
        (
            words.initialisation(name),
            f"{number}",
            words.percent(group.predicted),
            words.percent(group.observed),
            f"{words.percent(group.low)} to {words.percent(group.high)}",
            f"{group.n}",
        )
        for name, (_, groups) in fits.items()
        for number, group in enumerate(groups, 1)
    ]
    return Table(
        f"{words.sentence(words.task(task))}: the points of the charts",
        ("Initialisation", "Group", "Mean predicted", "With the event", "95% interval", "n"),
        rows,
        numeric=frozenset(range(1, 6)),
    )
