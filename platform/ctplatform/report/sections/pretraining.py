"""Pretraining curves: losses and the signs of a collapsed representation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs

TITLE = "Pretraining"
COLLAPSED = 2.0  # effective rank below which all vectors lie almost on a line
ROWS = 12  # rows of the table behind the curves


@dataclass(frozen=True)
class Curve:
    """One chart: its columns of metrics.jsonl as (column, label, colour), in drawing order."""

    name: str
    title: str
    lines: Sequence[tuple[str, str, str]]
    meaning: str
    from_zero: bool = True


CURVES = (
    Curve(
        "loss",
        "Contrastive loss",
        (("loss", "total", style.INK), ("local", "local", style.BLUE), ("global", "global", style.VERMILION)),
        "lower is better",
    ),
    Curve(
        "top1",
        "Top-1",
        (("top1", "", style.BLUE),),
        "share of patches whose own second view is the nearest key",
    ),
    Curve(
        "geometry",
        "Alignment and uniformity",
        (("alignment", "alignment", style.GREEN), ("uniformity", "uniformity", style.PURPLE)),
        "lower is better for both (Wang and Isola 2020)",
        from_zero=False,
    ),
    Curve(
        "rank",
        "Effective rank",
        (("effective_rank", "", style.BLUE),),
        "directions in use within a batch; near 1 is collapse",
    ),
    Curve(
        "experts", "Expert entropy", (("expert_entropy", "", style.PURPLE),), "spread of the location routing"
    ),
    Curve(
        "probe",
        "Probe",
        (("probe", "", style.BLUE),),
        "a task's head, cross-validated among training subjects",
        from_zero=False,
    ),
    Curve("lr", "Learning rate", (("lr", "", style.INK),), "schedule"),
    Curve("speed", "Throughput", (("patches_per_s", "", style.INK),), "patches per second"),
    Curve("wait", "Waiting for data", (("data_wait", "", style.INK),), "share of the time of steps"),
)


def section(inputs: Inputs) -> Section | Omitted:
    """All curves that the log holds."""
    metrics = inputs.metrics
    if metrics is None:
        return Omitted(TITLE, "this run has no pretraining log")
    curves = [curve for curve in CURVES if any(_has(metrics, column) for column, _, _ in curve.lines)]
    steps = int(metrics["step"].iloc[-1])
    scans = _scans(inputs)
    figure = Figure(
        name="pretraining",
        title="Loss and signs of collapse",
        caption=(
            "Thin: every logged step. Thick: running median. Local loss: a patch against the same location in other "
            "subjects. Global loss: the same with its anatomical neighbours in place of the patch. Chance: the value "
            "of an uninformative encoder with the same number of negatives." + _about_probe(inputs)
        ),
        n=f"n = {words.count(len(metrics), 'logged step')} up to step {steps:,}"
        + (f"; {scans}" if scans else ""),
        interval="one run; it has no interval",
        command=command("pretrain", inputs.recipe),
        panels=[_panel(curve, inputs, metrics, style.panel_width(len(curves))) for curve in curves],
        tables=[_table(metrics)],
    )
    return Section("pretraining", TITLE, _verdict(metrics), figures=[figure])


def _has(metrics: pd.DataFrame, column: str) -> bool:
    return column in metrics and pd.to_numeric(metrics[column], errors="coerce").notna().any()


def _scans(inputs: Inputs) -> str:
    if not inputs.splits:
        return ""
    train = set(map(str, inputs.splits.get("train", [])))
    rows = inputs.usable
    return words.count(int(rows["subject_id"].astype(str).isin(train).sum()), "training scan")


def chance_level(curve: str, metrics: pd.DataFrame) -> pd.Series | None:
    """The value of an uninformative encoder; it depends on the number of negatives, which grows at first."""
    if not _has(metrics, "negatives"):
        return None
    negatives = pd.to_numeric(metrics["negatives"], errors="coerce")
    return {"loss": np.log1p(negatives), "top1": 1 / (1 + negatives)}.get(curve)


def _about_probe(inputs: Inputs) -> str:
    """A description of the probe's curve for the caption."""
    about = inputs.probe
    if about is None:
        return ""
    return (
        f" Probe: {about['metric_title']} of {about['task'].replace('_', ' ')}, {about['folds']}-fold cross-validation "
        f"of the frozen encoder on {words.count(int(about['subjects']), 'training subject')} x {about['locations']} "
        "locations. It shows whether training still helps; it is no result on held-out subjects."
        + _about_selection(inputs)
    )


def _about_selection(inputs: Inputs) -> str:
    """Which encoder was published, where the probe selected it."""
    selection = (inputs.card or {}).get("provenance", {}).get("selection")
    if not selection:
        return ""
    return (
        f" The encoder of step {int(selection['step']):,} is published, the best of "
        f"{words.count(int(selection['probes']), 'probe')}: it has seen these subjects' labels."
    )


def levels(curve: str, inputs: Inputs) -> list[tuple[float, str]]:
    """Baselines of a curve, as (value, name)."""
    if curve != "probe" or inputs.probe is None:
        return []
    named = (("start", "before training"), ("density", "lung density"))
    return [(float(inputs.probe[key]), name) for key, name in named if inputs.probe.get(key) is not None]


def _verdict(metrics: pd.DataFrame) -> list[str]:
    """Last tenth of the log against chance, or against the first tenth if the log has no number of negatives."""

    def ends(values: pd.Series) -> tuple[float, float]:
        numbers = pd.to_numeric(values, errors="coerce").dropna().to_numpy(float)
        tenth = max(1, len(numbers) // 10)
        return float(np.median(numbers[:tenth])), float(np.median(numbers[-tenth:]))

    parts = []
    uninformed = chance_level("loss", metrics)
    if uninformed is not None and _has(metrics, "local"):
        last, chance = ends(metrics["local"])[1], ends(uninformed)[1]
        negatives = ends(metrics["negatives"])
        parts.append(
            f"At the end the local loss is {words.number(last)}; the chance level is {words.number(chance)} with "
            f"{words.number(negatives[1], 0)} negatives a patch"
            + (
                f" (at the start there were {words.number(negatives[0], 0)}, so the losses at start and end are not "
                "comparable)."
                if negatives[1] > 1.5 * negatives[0]
                else "."
            )
        )
    elif _has(metrics, "loss"):
        first, last = ends(metrics["loss"])
        change = "fell" if last < first else "did not fall"
        parts.append(
            f"The loss {change}: {words.number(first)} in the first tenth of the log, {words.number(last)} in the last."
        )
    if _has(metrics, "effective_rank"):
        first, last = ends(metrics["effective_rank"])
        state = ": the representation has collapsed or nearly so." if last < COLLAPSED else "."
        parts.append(f"Effective rank went from {words.number(first, 1)} to {words.number(last, 1)}{state}")
    return [" ".join(parts)] if parts else []


def _panel(curve: Curve, inputs: Inputs, metrics: pd.DataFrame, width: float) -> Panel:
    lines = [line for line in curve.lines if _has(metrics, line[0])]
    steps = metrics["step"].to_numpy(float)

    def draw(axes: Axes) -> None:
        ends = []
        for column, label, colour in lines:
            values = pd.to_numeric(metrics[column], errors="coerce").dropna()
            at, window = steps[values.index], max(1, len(values) // 25)
            smooth = values.rolling(window, center=True, min_periods=1).median()
            if window > 1:
                axes.plot(at, values, color=colour, linewidth=0.6, alpha=0.35)
            sparse = len(values) < len(metrics) / 4
            axes.plot(at, smooth, color=colour, linewidth=1.8, marker="o" if sparse else "", markersize=4)
            ends.append((float(smooth.dropna().iloc[-1]), label))
        uninformed = chance_level(curve.name, metrics)
        if uninformed is not None:
            axes.plot(steps, uninformed, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)))
            ends.append((float(uninformed.dropna().iloc[-1]), "chance"))
        for value, name in levels(curve.name, inputs):
            axes.axhline(value, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)))
            ends.append((value, name))
        if curve.from_zero:
            axes.set_ylim(0, axes.get_ylim()[1] * 1.04)
        _label_ends(axes, float(steps[-1]), ends)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("step")
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)

    last = ", ".join(
        f"{label or curve.title.lower()} {words.significant(_last(metrics, column))}"
        for column, label, _ in lines
    )
    return Panel(
        f"pretraining-{curve.name}",
        curve.title,
        style.chart(f"pretraining-{curve.name}", draw, width=width, height=0.72 * width),
        f"{curve.title} over {len(steps)} logged steps; at the end {last}.",
        words.sentence(curve.meaning),
    )


def _label_ends(axes: Axes, x: float, ends: list[tuple[float, str]]) -> None:
    """Write each line's name behind its end, with a minimum distance between names."""
    low, high = axes.get_ylim()
    room, at = 0.085 * (high - low), -float("inf")
    for y, label in sorted(ends):
        at = max(y, at + room)
        if label:
            axes.annotate(label, (x, at), xytext=(5, 0), textcoords="offset points", va="center")


def _last(metrics: pd.DataFrame, column: str) -> float:
    return float(pd.to_numeric(metrics[column], errors="coerce").dropna().iloc[-1])


def _table(metrics: pd.DataFrame) -> Table:
    columns = [c for curve in CURVES for c, _, _ in curve.lines if _has(metrics, c)]
    columns = ["step", *(["epoch"] if "epoch" in metrics else []), *columns]
    picks = np.unique(np.linspace(0, len(metrics) - 1, ROWS).round().astype(int))
    rows = [
        tuple(
            f"{int(value):,}" if c in ("step", "epoch") else words.significant(float(value))
            for c, value in zip(columns, row)
        )
        for row in metrics.iloc[picks][columns].itertuples(index=False)
    ]
    return Table(
        f"{len(rows)} of {words.count(len(metrics), 'logged step')}, evenly spaced",
        [words.sentence(c.replace("_", " ")) for c in columns],
        rows,
        numeric=frozenset(range(len(columns))),
    )
