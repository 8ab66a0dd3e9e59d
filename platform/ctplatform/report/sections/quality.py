"""Distributions of the quality measures over scans, with the thresholds of flagging and rejection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ctplatform.config.preparation import QualityConfig
from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Key, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs

TITLE = "Scan quality"
DRAWN = ("accepted", "flagged", "rejected")


@dataclass(frozen=True)
class Measure:
    """One quality measure: ledger column, title, unit, and the thresholds of flagging and rejection."""

    column: str
    title: str
    unit: str = ""
    flag: Sequence[float] = ()
    reject: Sequence[float] = ()


def measures(config: QualityConfig) -> list[Measure]:
    """The measures that are drawn, in order."""
    return [
        Measure("dice", "Overlap with the atlas", "Dice", [config.flag_dice], [config.reject_dice]),
        Measure("volume_l", "Lung volume", "litres", config.flag_volume_l, config.reject_volume_l),
        Measure("side_ratio", "Right lung / left lung", "ratio of volumes", config.flag_side_ratio),
        Measure(
            "cut_top_cm2", "Lung on the top slice", "cm²", [config.flag_cut_cm2], [config.reject_cut_cm2]
        ),
        Measure(
            "cut_bottom_cm2",
            "Lung on the bottom slice",
            "cm²",
            [config.flag_cut_cm2],
            [config.reject_cut_cm2],
        ),
        Measure("inside", "Patches inside the scan", "share", [config.flag_inside], [config.reject_inside]),
        Measure("laa950", "Lung below −950 HU (LAA-950)", "share of lung voxels"),
        Measure("perc15", "15th percentile of density (Perc15)", "HU"),
        Measure("mean_hu", "Mean lung density", "HU"),
    ]


def section(inputs: Inputs) -> Section | Omitted:
    """A histogram a measure, thresholds drawn, states stacked."""
    rows = inputs.ledger[inputs.ledger["state"].isin(DRAWN)] if not inputs.ledger.empty else inputs.ledger
    present = [
        m
        for m in measures(inputs.recipe.prepare.quality)
        if m.column in rows and rows[m.column].notna().any()
    ]
    if rows.empty or not present:
        return Omitted(TITLE, "no scan has been measured yet")
    states = [state for state in DRAWN if (rows["state"] == state).any()]
    figure = Figure(
        name="quality",
        title="Quality measures of the scans",
        caption=(
            "Bars: number of scans. Dashed lines: thresholds of flagging. Solid lines: thresholds of rejection. "
            "Thresholds far from all values are not drawn. Density is measured on the scan's original voxels."
        ),
        n=f"n = {words.count(len(rows), 'measured scan')}",
        interval="medians with 95% bootstrap intervals over scans",
        command=command("prepare", inputs.recipe),
        panels=[_panel(m, rows, states, style.panel_width(len(present))) for m in present],
        keys=[
            *(Key(words.sentence(state), style.STATE_COLOURS[state]) for state in states),
            Key("Flag", style.INK, dashed=True),
            Key("Reject", style.INK, marker="-"),
        ],
        tables=[_table(present, rows)],
    )
    return Section("quality", TITLE, figures=[figure])


def median_interval(values: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% percentile bootstrap interval of the median."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), [2.5, 97.5])
    return float(low), float(high)


def _panel(measure: Measure, rows: pd.DataFrame, states: list[str], width: float) -> Panel:
    groups = [rows.loc[rows["state"] == s, measure.column].dropna().to_numpy(float) for s in states]
    values = np.concatenate(groups)
    edges = bin_edges(values)

    def draw(axes: Axes) -> None:
        axes.hist(
            groups,
            bins=edges.tolist(),
            stacked=True,
            color=[style.STATE_COLOURS[s] for s in states],
            edgecolor="white",
            linewidth=0.5,
        )
        low, high = edges[0], edges[-1]
        margin = 0.35 * (high - low)
        for lines, dash in ((measure.flag, (0, (4, 3))), (measure.reject, "-")):
            for x in lines:
                if low - margin <= x <= high + margin:  # a distant threshold would compress the bars
                    axes.axvline(x, color=style.INK, linewidth=1, linestyle=dash)
        axes.set_xlabel(measure.unit)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        style.ylabel(axes, "scans")

    low, high = median_interval(values)
    middle, low_text, high_text = matched_decimals(float(np.median(values)), low, high)
    summary = f"n = {len(values):,}, median {middle} ({low_text} to {high_text})"
    return Panel(
        f"quality-{measure.column.replace('_', '-')}",
        measure.title,
        style.chart(f"quality-{measure.column}", draw, width=width),
        f"Histogram of {measure.title} ({measure.unit}) over scans by state: {summary}.",
        summary,
    )


def matched_decimals(*values: float) -> list[str]:
    """Values with the decimals that the largest needs for three significant digits; tiny ones in powers of ten."""
    top = max(abs(value) for value in values)
    if 0 < top < 1e-4:
        return ["0" if value == 0 else f"{value:.1e}" for value in values]
    digits = max(0, 2 - math.floor(math.log10(top))) if top > 0 else 2
    return [words.number(value, min(digits, 4)) for value in values]


def bin_edges(values: np.ndarray) -> np.ndarray:
    """Edges of the histogram's bins."""
    low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    if high - low <= 1e-3 * largest:  # equal up to rounding: one bar on a readable axis
        half = 0.05 * largest or 0.05
        return np.linspace((low + high) / 2 - half, (low + high) / 2 + half, 4)
    return np.linspace(low, high, int(np.clip(np.sqrt(len(values)) * 2, 8, 40)) + 1)


def _table(present: list[Measure], rows: pd.DataFrame) -> Table:
    cells = []
    for measure in present:
        values = rows[measure.column].dropna().to_numpy(float)
        q = np.percentile(values, [0, 25, 50, 75, 100])
        low, high = median_interval(values)
        show = matched_decimals(*map(float, (*q, low, high)))
        cells.append(
            (
                f"{measure.title} ({measure.unit})",
                f"{len(values):,}",
                show[2],
                f"{show[5]} to {show[6]}",
                f"{show[1]} to {show[3]}",
                f"{show[0]} to {show[4]}",
                _thresholds(measure.flag),
                _thresholds(measure.reject),
            )
        )
    return Table(
        "Quality measures over scans",
        (
            "Measure",
            "n",
            "Median",
            "95% interval",
            "Interquartile range",
            "Range",
            "Flagged beyond",
            "Rejected beyond",
        ),
        cells,
        numeric=frozenset(range(1, 8)),
    )


def _thresholds(values: Sequence[float]) -> str:
    return " or ".join(words.significant(v) for v in values) or words.DASH
