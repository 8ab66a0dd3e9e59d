"""Survival: scores by horizon, and the test of proportional hazards of the predicted risk."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Key, Panel, Table
from ctplatform.report.inputs import Inputs

DAYS_PER_YEAR = 365.25
FEWEST_DEATHS = 8  # below this number a test of proportional hazards has no power
NOTE = (
    "A small p means that the effect of the predicted risk changes with time; with few deaths a large p is no "
    "evidence. Not corrected for the number of initialisations."
)


@dataclass(frozen=True)
class Hazard:
    """Cox's model of the predicted risk alone, on the held-out subjects.

    Args:
        ratio: hazard ratio for one standard deviation more of predicted risk, with its 95% interval.
        p: of the test of scaled Schoenfeld residuals against ranks of time.
        years: time of each death.
        effect: of each death: its scaled Schoenfeld residual plus the log hazard ratio.
        n: number of subjects.
    """

    ratio: tuple[float, float, float]
    p: float
    years: np.ndarray
    effect: np.ndarray
    n: int

    @property
    def log_ratio(self) -> float:
        """Log hazard ratio of one standard deviation."""
        return float(np.log(self.ratio[0]))


def horizon_figure(inputs: Inputs, task: str) -> Figure | None:
    """Time-dependent AUC by horizon with the largest share of labels; a table of all, Uno's C among them."""
    if inputs.horizons is None:
        return None
    rows = inputs.horizons[inputs.horizons["task"] == task]
    if rows.empty:
        return None
    full = rows[(rows["fraction"] == rows["fraction"].max()) & (rows["measure"] == "auc_t")]
    order = inputs.initialisations
    names = [name for name in order if (full["initialisation"] == name).any()]
    looks = style.styles(names)
    panels = [] if full.empty else [_horizons(full, names, looks)]
    return Figure(
        name="horizons",
        title="Prediction of death by horizon",
        caption=(
            f"Cumulative/dynamic AUC with {words.percent(float(rows['fraction'].max()))} of the training labels: the "
            "probability that a subject who dies before the horizon has a higher predicted risk than one who survives "
            "it. Weighted for censoring; computed by scikit-survival. Points of one horizon are offset to be "
            "distinguishable."
        ),
        n=f"n = {words.count(int(rows['n_test'].max()), 'held-out subject')}",
        interval="95% bootstrap over held-out subjects",
        command=command("sweep", inputs.recipe),
        panels=panels,
        keys=[Key(words.initialisation(name), *looks[name]) for name in names],
        tables=[_horizon_table(rows, order)],
    )


def _horizons(rows: pd.DataFrame, names: list[str], looks: dict[str, tuple[str, str]]) -> Panel:
    days = sorted(rows["days"].unique())

    def draw(axes: Axes) -> None:
        for i, name in enumerate(names):
            part = rows[rows["initialisation"] == name].sort_values("days")
            colour, marker = looks[name]
            x = np.array([days.index(d) for d in part["days"]]) + 0.07 * (i - (len(names) - 1) / 2)
            axes.vlines(x, part["low"], part["high"], color=colour, linewidth=1.3)
            axes.plot(x, part["value"], color=colour, linewidth=1.4)
            axes.plot(x, part["value"], marker, color=colour, markersize=5.5, linestyle="none")
        axes.set_xticks(range(len(days)), [_years(d) for d in days])
        axes.set_xlim(-0.6, len(days) - 0.4)
        axes.set_xlabel("years")
        style.reference(axes, 0.5, "chance")
        style.ylabel(axes, "AUC up to this time, higher is better")

    described = "; ".join(
        f"{words.initialisation(r.initialisation)} at {_years(r.days)} years {words.estimate(r.value, r.low, r.high)}"
        for r in rows.itertuples()
    )
    return Panel(
        "horizons",
        "Time-dependent AUC",
        style.chart("horizons", draw, width=style.WIDE),
        f"AUC by horizon: {described}.",
    )


def _horizon_table(rows: pd.DataFrame, order: list[str]) -> Table:
    rank = {name: i for i, name in enumerate(order)}
    ordered = rows.assign(_i=rows["initialisation"].map(rank).fillna(len(order)))
    cells = [
        (
            words.initialisation(row.initialisation),
            "AUC" if row.measure == "auc_t" else "Uno's C up to",
            _years(row.days),
            words.percent(row.fraction),
            words.number(row.value),
            words.interval(row.low, row.high),
            f"{int(row.cases)}",
            f"{int(row.controls)}",
            f"{int(row.n_test)}",
        )
        for row in ordered.sort_values(["measure", "_i", "fraction", "days"]).itertuples()
    ]
    return Table(
        "Scores by horizon",
        (
            "Initialisation",
            "Measure",
            "Years",
            "Labels",
            "Value",
            "95% interval",
            "Dead",
            "Alive and under observation",
            "n",
        ),
        cells,
        numeric=frozenset(range(2, 9)),
        note="Horizons with fewer than five subjects on either side are left out.",
    )


def hazard_figure(inputs: Inputs, groups: dict[str, pd.DataFrame], fraction: float) -> Figure | None:
    """Scaled Schoenfeld residuals of the predicted risk against time; the training subjects' test in the table."""
    found = {name: fit for name, rows in groups.items() if (fit := hazard(rows))}
    if not found:
        return None
    looks = style.styles(found)
    first = next(iter(found.values()))
    return Figure(
        name="hazards",
        title="Proportional hazards",
        caption=(
            f"Cox's model assumes that a predicted risk multiplies the hazard by the same factor at all times. With "
            f"{words.percent(fraction)} of the training labels. Each point is a death among the held-out subjects: its "
            "scaled Schoenfeld residual plus the log hazard ratio for one standard deviation of predicted risk. Line: "
            "running mean. Dashed: the constant log hazard ratio of the model. A line that rises or falls indicates an "
            "effect that changes with time."
        ),
        n=f"n = {words.count(first.n, 'held-out subject')}, {words.count(len(first.years), 'death')}",
        interval="hazard ratios: 95% intervals of Cox's model; no interval of the running mean",
        command=command("sweep", inputs.recipe),
        panels=[_residuals(name, fit, looks[name]) for name, fit in found.items()],
        keys=[Key("The model's constant", style.MUTED, "-", dashed=True)],
        tables=[_checks(inputs, found)],
    )


def hazard(rows: pd.DataFrame) -> Hazard | None:
    """Cox's model of `risk` (predicted, standardised here) on `time` (days) and `event`; None with too few deaths."""
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError
    from lifelines.statistics import proportional_hazard_test

    spread = float(rows["risk"].std(ddof=0))
    if rows["event"].sum() < FEWEST_DEATHS or not spread > 0:
        return None
    table = pd.DataFrame(
        {
            "risk": (rows["risk"] - rows["risk"].mean()) / spread,
            "time": rows["time"].astype(float),
            "event": rows["event"].astype(int),
        }
    ).reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = CoxPHFitter().fit(table, "time", "event")
            p = float(proportional_hazard_test(model, table, time_transform="rank").p_value.item())
            residuals = model.compute_residuals(table, "scaled_schoenfeld")
        except (ConvergenceError, ValueError, np.linalg.LinAlgError):
            return None
    low, high = np.exp(model.confidence_intervals_.loc["risk"].to_numpy(float))
    log_ratio = float(model.params_["risk"])
    return Hazard(
        (float(np.exp(log_ratio)), float(low), float(high)),
        p,
        table.loc[residuals.index, "time"].to_numpy(float) / DAYS_PER_YEAR,
        residuals["risk"].to_numpy(float) + log_ratio,
        len(table),
    )


def running_mean(x_N: np.ndarray, y_N: np.ndarray, at_M: np.ndarray) -> np.ndarray:
    """Mean of y weighted by a Gaussian of the ranks of x, a sixth of the points wide."""
    order = np.argsort(x_N, kind="stable")
    rank_N = np.empty(len(x_N))
    rank_N[order] = np.arange(len(x_N))
    at_rank_M = np.interp(at_M, x_N[order], np.arange(len(x_N)))
    weight_MN = np.exp(-0.5 * np.square((at_rank_M[:, None] - rank_N) / max(len(x_N) / 6, 1)))
    mean_M: np.ndarray = (weight_MN * y_N).sum(1) / weight_MN.sum(1)
    return mean_M


def _residuals(name: str, fit: Hazard, look: tuple[str, str]) -> Panel:
    colour, marker = look

    def draw(axes: Axes) -> None:
        at = np.linspace(fit.years.min(), fit.years.max(), 60)
        axes.axhline(fit.log_ratio, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.plot(fit.years, fit.effect, marker, color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
        axes.plot(at, running_mean(fit.years, fit.effect, at), color=colour, linewidth=1.8)
        axes.set_xlabel("years")
        style.ylabel(axes, "log hazard ratio for one SD")

    title, detail = words.initialisation(name), f"Schoenfeld {words.p_value(fit.p)}"
    return Panel(
        f"hazards-{words.slug(name)}",
        title,
        style.chart(f"hazards-{words.slug(name)}", draw),
        f"Scaled Schoenfeld residuals of {len(fit.years)} deaths against time. {title}: hazard ratio for one standard "
        f"deviation {words.estimate(*fit.ratio)}; {detail}.",
        detail,
    )


def _checks(inputs: Inputs, found: dict[str, Hazard]) -> Table:
    cells = [
        (
            words.initialisation(name),
            words.estimate(*fit.ratio),
            words.p_value(fit.p),
            f"{fit.n}",
            f"{len(fit.years)}",
            *_training(inputs, name),
        )
        for name, fit in found.items()
    ]
    return Table(
        "Proportional hazards",
        (
            "Initialisation",
            "Hazard ratio for one SD",
            "Schoenfeld, held out",
            "n",
            "Deaths",
            "Components",
            "Penalty",
            "Schoenfeld, training",
        ),
        cells,
        numeric=frozenset(range(1, 8)),
        note=NOTE
        + " Training: medians over seeds of the fitted Cox model's principal components, penalty, and the least p over "
        "its components times their number.",
    )


def _training(inputs: Inputs, name: str) -> tuple[str, str, str]:
    if inputs.details is None:
        return (words.DASH,) * 3
    rows = inputs.details[(inputs.details["task"] == "survival") & (inputs.details["initialisation"] == name)]
    rows = rows[rows["fraction"] == rows["fraction"].max()]
    values = rows.groupby("name")["value"].median()
    shown = [
        words.number(float(values[key]), digits) if key in values else words.DASH
        for key, digits in (("components", 0), ("penalty", 1))
    ]
    p = words.p_value(float(values["schoenfeld_p"])) if "schoenfeld_p" in values else words.DASH
    return shown[0], shown[1], p


def _years(days: float) -> str:
    return f"{days / DAYS_PER_YEAR:.3g}"
