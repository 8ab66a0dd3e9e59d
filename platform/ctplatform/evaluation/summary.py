"""From trials to tables: one value a trial, means over seeds with bootstrap intervals, paired comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ctplatform.evaluation.cells import Trial
from ctplatform.evaluation.problems import Problem
from ctplatform.metrics.bootstrap import interval, interval_with_infinity, labels_needed, paired_p, resamples
from ctplatform.metrics.scores import Metric, Targets

REFERENCE, BASELINE = "drasclr", "scratch"
RESULT_COLUMNS = (
    "task",
    "initialisation",
    "fraction",
    "seed",
    "metric",
    "value",
    "n_train",
    "n_test",
    "seconds",
)
SUMMARY_COLUMNS = (
    *("task", "initialisation", "fraction", "metric", "value", "low", "high", "sd_seeds"),
    *("n_test", "n_train", "n_seeds", "chance", "higher_is_better"),
)
COMPARISON_COLUMNS = (
    "task",
    "fraction",
    "metric",
    "a",
    "b",
    "difference",
    "low",
    "high",
    "p",
    "n_test",
    "n_seeds",
)
SAVINGS_COLUMNS = (
    *("task", "metric", "initialisation", "target", "target_low", "target_high", "chance", "n_baseline"),
    *("labels", "low", "high", "share_reached", "n_least", "n_test", "n_seeds"),
)
DETAIL_COLUMNS = ("task", "initialisation", "fraction", "seed", "name", "value")

Row = tuple[Any, ...]  # of a table, in the order of its columns


def tables(
    trials: Sequence[Trial], problems: Mapping[str, Problem], *, bootstrap: int, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """The tables results, predictions, summary, comparisons, savings and details of some trials.

    The interval is over test subjects: each resample is scored for every seed and averaged over the seeds. All
    initialisations and fractions of a task see the same resamples, so that differences are paired. A difference is
    a - b of the metric itself, over the seeds that both have.
    """
    results: list[Row] = []
    summary: list[Row] = []
    comparisons: list[Row] = []
    savings: list[Row] = []
    for name, problem in problems.items():
        mine = [trial for trial in trials if trial.cell.task == name]
        rows_BN = resamples(len(problem.test), count=bootstrap, seed=seed)
        for metric in problem.task.scores:
            values = _score(mine, problem.test, metric, rows_BN)
            results += [
                (
                    *_cell(t),
                    metric.name,
                    values[t.cell.initialisation, t.cell.fraction][t.cell.seed][0],
                    *_size(t),
                )
                for t in mine
            ]
            chance = metric.chance(problem.train, problem.test)
            n_train = {t.cell.fraction: t.n_train for t in mine}
            for (initialisation, fraction), by_seed in values.items():
                points, draws_SB = _stack(by_seed.values())
                low, high = interval(_mean(draws_SB))
                summary.append(
                    (name, initialisation, fraction, metric.name, np.mean(points), low, high)
                    + (np.std(points, ddof=1) if len(points) > 1 else np.nan, len(problem.test))
                    + (n_train[fraction], len(points), chance, metric.higher_is_better)
                )
            comparisons += _compare(name, metric, values, n_test=len(problem.test))
            savings += _save(name, metric, values, n_train, chance=chance, n_test=len(problem.test))
    predictions = [trial.predictions.drop(columns="numbers", errors="ignore") for trial in trials]
    details = [(*_cell(t), key, float(value)) for t in trials for key, value in t.details.items()]
    return {
        "results": pd.DataFrame(results, columns=RESULT_COLUMNS),
        "predictions": pd.concat(predictions, ignore_index=True),
        "summary": pd.DataFrame(summary, columns=SUMMARY_COLUMNS),
        "comparisons": pd.DataFrame(comparisons, columns=COMPARISON_COLUMNS),
        "savings": pd.DataFrame(savings, columns=SAVINGS_COLUMNS),
        "details": pd.DataFrame(details, columns=DETAIL_COLUMNS),
    }


# (initialisation, fraction) -> seed -> (value, value of each resample)
Scores = dict[tuple[str, float], dict[int, tuple[float, np.ndarray]]]


def _score(trials: Sequence[Trial], test: Targets, metric: Metric, rows_BN: np.ndarray) -> Scores:
    values: Scores = {}
    for trial in trials:
        scored = metric.value(test, trial.outcome), metric.score(test, trial.outcome, rows_BN)
        values.setdefault((trial.cell.initialisation, trial.cell.fraction), {})[trial.cell.seed] = scored
    return values


def _compare(task: str, metric: Metric, values: Scores, *, n_test: int) -> list[Row]:
    names = list(dict.fromkeys(initialisation for initialisation, _ in values))
    if not names:
        return []
    reference = REFERENCE if REFERENCE in names else names[0]
    rows = []
    for other, fraction in values:
        if other == reference or (reference, fraction) not in values:
            continue
        mine, theirs = values[reference, fraction], values[other, fraction]
        seeds = sorted(set(mine) & set(theirs))
        if not seeds:
            continue
        point_a, draws_a = _stack(mine[seed] for seed in seeds)
        point_b, draws_b = _stack(theirs[seed] for seed in seeds)
        differences_B = _mean(draws_a) - _mean(draws_b)
        low, high = interval(differences_B)
        row = (task, fraction, metric.name, reference, other, np.mean(point_a) - np.mean(point_b), low, high)
        rows.append((*row, paired_p(differences_B), n_test, len(seeds)))
    return rows


def _save(
    task: str, metric: Metric, values: Scores, n_train: Mapping[float, int], *, chance: float, n_test: int
) -> list[Row]:
    """Labels that each initialisation needs to reach training from scratch with the most labels; inf: not reached."""
    full = max((fraction for name, fraction in values if name == BASELINE), default=None)
    if full is None:
        return []
    sign = 1 if metric.higher_is_better else -1
    rows = []
    for name in dict.fromkeys(name for name, _ in values if name != BASELINE):
        # Fractions so small that they were raised to one number of labels are one point of the curve: its last.
        curve = {n_train[f]: f for f in sorted(f for other, f in values if other == name)}
        seeds = set.intersection(*(set(values[name, f]) for f in curve.values()), set(values[BASELINE, full]))
        if not seeds:
            continue
        target, target_SB = _stack(values[BASELINE, full][seed] for seed in sorted(seeds))
        stacked = [_stack(values[name, f][seed] for seed in sorted(seeds)) for f in curve.values()]
        n_F = np.array(list(curve))
        points_BF = np.array([[points.mean() for points, _ in stacked]])
        draws_BF = np.stack([_mean(draws_SB) for _, draws_SB in stacked], axis=1)
        needed = float(labels_needed(n_F, sign * points_BF, sign * np.array([target.mean()]))[0])
        needed_B = labels_needed(n_F, sign * draws_BF, sign * _mean(target_SB))
        defined_B = needed_B[~np.isnan(needed_B)]
        share = float(np.isfinite(defined_B).mean()) if len(defined_B) else float("nan")
        rows.append(
            (task, metric.name, name, target.mean(), *interval(_mean(target_SB)), chance, n_train[full])
            + (needed, *interval_with_infinity(needed_B), share, int(n_F[0]), n_test, len(seeds))
        )
    return rows


def _stack(scored: Iterable[tuple[float, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    points, draws = zip(*scored)
    return np.array(points), np.stack(draws)


def _mean(draws_SB: np.ndarray) -> np.ndarray:
    """Mean over seeds; a resample without one event or one class is undefined for every seed alike."""
    return np.asarray(draws_SB.mean(0))


def _cell(trial: Trial) -> Row:
    cell = trial.cell
    return cell.task, cell.initialisation, cell.fraction, cell.seed


def _size(trial: Trial) -> Row:
    return trial.n_train, trial.n_test, trial.seconds


def headline_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Each task's main metric, at the largest label fraction."""
    main = summary.drop_duplicates("task").set_index("task")["metric"]  # the tables have the main one first
    rows = summary[summary["metric"] == summary["task"].map(main)]
    return rows[rows["fraction"] == rows.groupby("task")["fraction"].transform("max")]
