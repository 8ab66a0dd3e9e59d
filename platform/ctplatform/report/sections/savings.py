"""Labels that pretraining saves, as a table and in sentences; and the searched hyper-parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctplatform.report import words
from ctplatform.report.document import Table
from ctplatform.report.inputs import Inputs

PRETRAINED = ("drasclr", "finetune")


def sentences(inputs: Inputs, tasks: list[str]) -> list[tuple[str, str]]:
    """One statement a task, on its main metric: what the pretrained encoder needs to reach the from-scratch score."""
    if inputs.savings is None:
        return []
    found = []
    for task in tasks:
        rows = inputs.savings[inputs.savings["task"] == task]
        if rows.empty:
            continue
        rows = rows[rows["metric"] == words.leading_metric(rows["metric"])].set_index("initialisation")
        mine = [name for name in PRETRAINED if name in rows.index]
        if mine:
            found.append((words.sentence(words.task(task)), _statement(rows, mine)))
    return found


def _statement(rows: pd.DataFrame, names: list[str]) -> str:
    first = rows.loc[names[0]]
    metric, total = words.metric(first["metric"]), int(first["n_baseline"])
    text = (
        f"Trained from scratch on all {total:,} labels, the network reaches {metric} "
        f"{words.estimate(first['target'], first['target_low'], first['target_high'])}."
    )
    if _no_better_than_chance(first):
        text += (
            f" That is not distinguishable from chance ({words.number(float(first['chance']))}): the number of labels "
            "that reach it is not informative."
        )
    return " ".join([text, *(_need(words.initialisation(name), rows.loc[name], total) for name in names)])


def _no_better_than_chance(row: pd.Series) -> bool:
    if words.missing(row["chance"]) or words.missing(row["target_low"]):
        return False
    if words.lower_is_better(row["metric"]):
        return bool(row["target_high"] >= row["chance"])
    return bool(row["target_low"] <= row["chance"])


def _need(name: str, row: pd.Series, total: int) -> str:
    labels, least = float(row["labels"]), float(row["n_least"])
    between = f"95% interval {label_interval(float(row['low']), float(row['high']), least)}"
    if np.isnan(labels):
        return f"For {name} this cannot be determined."
    if np.isinf(labels):
        return f"{name} does not reach that with any share of the labels that was tried ({between})."
    share = min(labels, total) / total
    fewest = " the fewest that were tried," if labels <= least else ""
    return (
        f"{name} needs {_labels(labels, least)} for that,{fewest} {words.percent(share)} of them ({between})."
    )


def search_table(inputs: Inputs) -> Table | None:
    """Configurations tried in the cells of each task, initialisation and share, and what was chosen."""
    details = inputs.details
    if details is None or not (details["name"] == "configurations").any():
        return None
    keys = ["task", "initialisation", "fraction", "seed"]
    wide = details.pivot(index=keys, columns="name", values="value").dropna(subset=["configurations"])
    cells = [
        (
            words.sentence(words.task(task)),
            words.initialisation(name),
            words.percent(fraction),
            f"{len(part)}",
            f"{int(part['configurations'].sum()):,}",
            f"{int(part['stopped'].sum()):,}",
            _spread(part["lr"]),
            _spread(part["weight_decay"]),
            words.duration(float(part["seconds"].sum())),
        )
        for (task, name, fraction), part in wide.groupby(level=keys[:3], sort=False)
    ]
    return Table(
        "Hyper-parameters that were searched",
        (
            "Task",
            "Initialisation",
            "Labels",
            "Cells",
            "Tried",
            "Stopped early",
            "Learning rate",
            "Weight decay",
            "Time",
        ),
        cells,
        numeric=frozenset(range(2, 9)),
        note=(
            "By asynchronous successive halving inside each cell, on validation subjects taken from the cell's own "
            "training subjects. Chosen values: median over seeds, and range."
        ),
    )


def _spread(values: pd.Series) -> str:
    low, middle, high = values.min(), values.median(), values.max()
    return f"{middle:.1e}" + (f" ({low:.1e} to {high:.1e})" if low < high else "")


def table(savings: pd.DataFrame) -> Table:
    """Number of labels with which each initialisation reaches the score of training from scratch with all labels."""
    cells = [
        (
            words.sentence(words.task(row.task)),
            words.metric(row.metric),
            words.estimate(row.target, row.target_low, row.target_high),
            words.initialisation(row.initialisation),
            _labels(row.labels, row.n_least),
            label_interval(row.low, row.high, row.n_least),
            f"{int(row.n_baseline):,}",
            words.percent(row.share_reached),
        )
        for row in savings.itertuples()
    ]
    return Table(
        "Labels needed to reach the from-scratch model's score with all labels",
        (
            "Task",
            "Metric",
            "From scratch, all labels",
            "Initialisation",
            "Labels needed",
            "95% interval",
            "Of",
            "Resamples that reach it",
        ),
        cells,
        numeric=frozenset({2, 4, 5, 6, 7}),
        note=(
            "Between label shares that were tried, the score is taken as linear in the logarithm of the number of "
            "labels. The interval is over held-out subjects, the same resamples for both; it ends with "
            "\u201cnot reached\u201d where the curve stays below. Where the from-scratch score is no better than "
            "chance, the number of labels is not informative."
        ),
    )


def label_interval(low: float, high: float, least: float) -> str:
    """An interval of numbers of labels; equal ends are written once."""
    ends = _labels(low, least), _labels(high, least)
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _labels(count: float, least: float) -> str:
    if np.isnan(count):
        return words.DASH
    if np.isinf(count):
        return "not reached"
    return f"at most {int(least)}" if count <= least else f"{int(np.ceil(round(count, 6))):,}"
