"""Survival scores at a time: cumulative/dynamic AUC by horizon, and Uno's concordance up to the last one.

Harrell's C depends on the follow-up times of the subjects; these scores are weighted for censoring (Uno et al.,
Statistics in Medicine 2011, doi:10.1002/sim.4154). Computed by scikit-survival, an extra.

Shape legend: N test subjects, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Trial
from ctplatform.evaluation.problems import Problem
from ctplatform.metrics.bootstrap import interval, resamples
from ctplatform.metrics.scores import Targets, pair_share

DAYS = 365.25
YEARS = (1, 2, 3, 5, 7, 10)
MIN_CASES = 5  # and controls of a horizon
COLUMNS = (
    *("task", "initialisation", "fraction", "measure", "days", "value", "low", "high"),
    *("cases", "controls", "n_test", "n_seeds"),
)


@dataclass(frozen=True)
class FollowUp:
    """Test subjects of one task with their inverse probability of censoring weights.

    Args:
        train: times and events of the training subjects, which give the censoring distribution.
        targets: times and events of the test subjects, censored at `limit`.
        weight_N: 1 / probability of being uncensored until the event; 0 for the censored.
        horizons: days at which there are enough cases and controls.
        limit: days up to which the censoring distribution is known.
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
    rows: list[tuple[Any, ...]] = []
    for name, problem in problems.items():
        mine = [trial for trial in trials if trial.cell.task == name]
        if problem.task.kind != "survival" or not mine:
            continue
        follow_up = censor(problem.train, problem.test)
        rows_BN = resamples(len(problem.test), count=bootstrap, seed=seed)
        groups: dict[tuple[str, float], list[Trial]] = {}
        for trial in mine:
            groups.setdefault((trial.cell.initialisation, trial.cell.fraction), []).append(trial)
        for (initialisation, fraction), group in groups.items():
            risks = [trial.predictions["prediction"].to_numpy() for trial in group]
            for measure, days in [("auc_t", t) for t in follow_up.horizons] + [("uno_c", follow_up.limit)]:
                pairs_NN = pairs(follow_up, measure, days)
                value = float(np.mean([point(follow_up, measure, days, risk_N) for risk_N in risks]))
                draws_B = np.mean([pair_share(pairs_NN, risk_N, rows_BN) for risk_N in risks], axis=0)
                time, event = follow_up.targets.value_N, follow_up.targets.event_N
                assert event is not None
                cases = int((event & (time <= days)).sum())
                row = (name, initialisation, fraction, measure, days, value, *interval(draws_B))
                rows.append((*row, cases, int((time > days).sum()), len(time), len(group)))
    return pd.DataFrame(rows, columns=COLUMNS)


def censor(train: Targets, test: Targets) -> FollowUp:
    """Censor the test subjects where the training subjects' follow-up ends, and weight them.

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
        and (event_N & (targets.value_N <= year * DAYS)).sum() >= MIN_CASES
        and (targets.value_N > year * DAYS).sum() >= MIN_CASES
    ]
    return FollowUp(train, targets, weight_N, tuple(days), limit)


def point(follow_up: FollowUp, measure: str, days: float, risk_N: np.ndarray) -> float:
    """The score of the sample, by scikit-survival; nan where it is undefined."""
    from sksurv.metrics import concordance_index_ipcw, cumulative_dynamic_auc

    train, test = _surv(follow_up.train), _surv(follow_up.targets)
    try:
        if measure == "uno_c":
            return float(concordance_index_ipcw(train, test, risk_N, tau=days)[0])
        return float(cumulative_dynamic_auc(train, test, risk_N, [days])[0][0])
    except (ValueError, ZeroDivisionError):  # no comparable pair
        return float("nan")


def pairs(follow_up: FollowUp, measure: str, days: float) -> np.ndarray:
    """Weights [N, N] of the ordered pairs (first has the higher risk) that the measure compares."""
    time, event, weight = follow_up.targets.value_N, follow_up.targets.event_N, follow_up.weight_N
    assert event is not None
    if measure == "uno_c":
        later = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & ~event[None, :])
        return np.asarray((np.square(weight) * (event & (time < days)))[:, None] * later)
    return (weight * (event & (time <= days)))[:, None] * (time > days)[None, :]


def _surv(targets: Targets) -> np.ndarray:
    from sksurv.util import Surv

    return np.asarray(Surv.from_arrays(targets.event_N, targets.value_N))
