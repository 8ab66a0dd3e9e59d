"""Survival scores at a time: cumulative/dynamic AUC by horizon, and Uno's concordance up to the last one.

Harrell's C depends on how long subjects happened to be watched; these weigh for that. By scikit-survival, an extra.

Shape legend: N test subjects, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Problem, Trial
from ctplatform.metrics.bootstrap import interval, resamples
from ctplatform.metrics.scores import Targets, pair_share
from ctplatform.tasks import get_task

DAYS = 365.25
YEARS = (1, 2, 3, 5, 7, 10)
LEAST = 5  # cases and controls of a horizon
COLUMNS = (
    *("task", "initialisation", "fraction", "measure", "days", "value", "low", "high"),
    *("cases", "controls", "n_test", "n_seeds"),
)


@dataclass(frozen=True)
class Watched:
    """Test subjects of one task with their inverse probability of being watched so long.

    Args:
        targets: times and events, censored at `limit` days, beyond which no training subject says who was watched.
        weight_N: by the training subjects' censoring distribution; 0 for the censored.
        horizons: days at which there are cases and controls enough.
        limit: days.
    """

    train: Targets
    targets: Targets
    weight_N: np.ndarray
    horizons: tuple[float, ...]
    limit: float


def horizons(
    trials: Sequence[Trial], problems: Mapping[str, Problem], *, bootstrap: int, seed: int = 0
) -> pd.DataFrame:
    """Time-dependent AUC (`auc_t`) and Uno's C (`uno_c`) of every survival trial, means over seeds with intervals.

    The values are scikit-survival's. Intervals are 95% bootstrap over test subjects, on the same resamples as all
    other scores of the task; censoring weights are the training subjects' and stay the same.

    Raises:
        StageError: scikit-survival is not installed.
    """
    rows: list[tuple] = []
    for name, problem in problems.items():
        mine = [trial for trial in trials if trial.cell.task == name]
        if get_task(name).kind != "survival" or not mine:
            continue
        seen = watched(problem.train, problem.test)
        rows_BN = resamples(len(problem.test), count=bootstrap, seed=seed)
        groups: dict[tuple[str, float], list[Trial]] = {}
        for trial in mine:
            groups.setdefault((trial.cell.initialisation, trial.cell.fraction), []).append(trial)
        for (initialisation, fraction), group in groups.items():
            risks = [trial.predictions["prediction"].to_numpy() for trial in group]
            for measure, days in [("auc_t", t) for t in seen.horizons] + [("uno_c", seen.limit)]:
                pairs_NN = pairs(seen, measure, days)
                value = float(np.mean([point(seen, measure, days, risk_N) for risk_N in risks]))
                draws_B = np.mean([pair_share(pairs_NN, risk_N, rows_BN) for risk_N in risks], axis=0)
                time, event = seen.targets.value_N, seen.targets.event_N
                assert event is not None
                cases = int((event & (time <= days)).sum())
                row = (name, initialisation, fraction, measure, days, value, *interval(draws_B))
                rows.append((*row, cases, int((time > days).sum()), len(time), len(group)))
    return pd.DataFrame(rows, columns=COLUMNS)


def watched(train: Targets, test: Targets) -> Watched:
    """Censor the test subjects where the training subjects' follow-up ends, and weigh them.

    Raises:
        StageError: scikit-survival is not installed.
    """
    try:
        from sksurv.nonparametric import CensoringDistributionEstimator
    except ImportError:
        raise StageError(
            "time-dependent concordance and AUC are left out: scikit-survival is not installed",
            "pip install 'drasclr[survival]' and run `drasclr sweep` again; no trial is repeated",
            code="no-scikit-survival",
        ) from None
    assert train.event_N is not None
    assert test.event_N is not None
    # Just before the longest follow-up: at it, the probability of being watched may be zero.
    limit = float(min(np.nextafter(train.value_N.max(), 0), np.nextafter(test.value_N.max(), 0)))
    inside = test.value_N <= limit
    targets = Targets(np.minimum(test.value_N, limit), test.event_N & inside)
    estimator = CensoringDistributionEstimator().fit(_surv(train))
    weight_N = np.asarray(estimator.predict_ipcw(_surv(targets)), float)
    event_N = targets.event_N
    assert event_N is not None
    days = [
        year * DAYS
        for year in YEARS
        if year * DAYS < limit
        and (event_N & (targets.value_N <= year * DAYS)).sum() >= LEAST
        and (targets.value_N > year * DAYS).sum() >= LEAST
    ]
    return Watched(train, targets, weight_N, tuple(days), limit)


def point(seen: Watched, measure: str, days: float, risk_N: np.ndarray) -> float:
    """The score of the sample, by scikit-survival; nan where it is undefined."""
    from sksurv.metrics import concordance_index_ipcw, cumulative_dynamic_auc

    train, test = _surv(seen.train), _surv(seen.targets)
    try:
        if measure == "uno_c":
            return float(concordance_index_ipcw(train, test, risk_N, tau=days)[0])
        return float(cumulative_dynamic_auc(train, test, risk_N, [days])[0][0])
    except (ValueError, ZeroDivisionError):  # no comparable pair
        return float("nan")


def pairs(seen: Watched, measure: str, days: float) -> np.ndarray:
    """Weights [N, N] of the ordered pairs (first has the higher risk) that the measure compares."""
    time, event, weight = seen.targets.value_N, seen.targets.event_N, seen.weight_N
    assert event is not None
    if measure == "uno_c":
        later = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & ~event[None, :])
        return (np.square(weight) * (event & (time < days)))[:, None] * later
    return (weight * (event & (time <= days)))[:, None] * (time > days)[None, :]


def _surv(targets: Targets) -> np.ndarray:
    from sksurv.util import Surv

    return Surv.from_arrays(targets.event_N, targets.value_N)
