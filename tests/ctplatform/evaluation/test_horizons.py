"""Survival scores at a time: values are scikit-survival's, and the resamples' are what it says of each resample."""

import sys

import numpy as np
import pandas as pd
import pytest

from ctplatform.errors import StageError
from ctplatform.evaluation.cells import Cell, Trial
from ctplatform.evaluation.horizons import DAYS, censor, horizons, pairs, point
from ctplatform.evaluation.problems import SubjectProblem
from ctplatform.metrics.scores import Targets, pair_share
from ctplatform.tasks.registry import get_task

pytest.importorskip("sksurv", reason="scikit-survival is an extra: pip install 'drasclr[survival]'")


def survivors(count, seed=0, strength=1.0):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=count)
    death = rng.exponential(1500 * np.exp(-strength * risk))
    end = rng.uniform(700, 2600, count)
    return Targets(np.minimum(death, end).round(), death <= end), risk


@pytest.mark.parametrize("measure", ["auc_t", "uno_c"])
def test_every_resample_is_scored_as_scikit_survival_would(measure):
    train, (test, risk) = survivors(120, 1)[0], survivors(60, 2)
    risk[:10] = risk[10:20]  # ties
    follow_up = censor(train, test)
    days = follow_up.limit if measure == "uno_c" else 2 * DAYS
    weights = pairs(follow_up, measure, days)
    rows = np.concatenate([np.arange(60)[None], np.random.default_rng(0).integers(0, 60, (5, 60))])
    for row, ours in zip(rows, pair_share(weights, risk, rows)):
        drawn = type(follow_up)(
            train, follow_up.targets.take(row), follow_up.weight_N[row], follow_up.horizons, follow_up.limit
        )
        assert ours == pytest.approx(point(drawn, measure, days, risk[row]), abs=2e-6)


def test_follow_up_beyond_the_training_subjects_is_not_used():
    train, (test, risk) = survivors(50, 1)[0], survivors(60, 2)
    longest = Targets(np.append(test.value_N, 9000.0), np.append(test.event_N, True))
    follow_up = censor(train, longest)
    assert follow_up.limit < train.value_N.max()
    assert not follow_up.targets.event_N[-1]
    assert np.isfinite(point(follow_up, "uno_c", follow_up.limit, np.append(risk, 0.0)))
    assert all(h < follow_up.limit for h in follow_up.horizons)


def problem_and_trials(seeds=2):
    train, (test, risk) = survivors(100, 1)[0], survivors(80, 2)
    subjects = tuple(f"s{i}" for i in range(80))
    problem = SubjectProblem(
        get_task("survival"), tuple(f"t{i}" for i in range(100)), train, subjects, test, {}, {}
    )
    rng = np.random.default_rng(0)
    trials = [
        Trial(Cell("survival", name, 1.0, seed), 100, 80, 1.0, (), pd.DataFrame({"prediction": values}))
        for seed in range(seeds)
        for name, values in (("drasclr", risk + 0.1 * rng.normal(size=80)), ("random", rng.normal(size=80)))
    ]
    return {"survival": problem}, trials


def test_signal_is_found_at_every_horizon_and_noise_is_not():
    problems, trials = problem_and_trials()
    table = horizons(trials, problems, bootstrap=300)
    assert set(table["measure"]) == {"auc_t", "uno_c"}
    assert len(table.query("measure == 'auc_t'")["days"].unique()) >= 3
    signal, noise = (table[table["initialisation"] == name] for name in ("drasclr", "random"))
    assert (signal["low"] > 0.55).all()
    assert ((noise["low"] < 0.6) & (noise["high"] > 0.4)).all()
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert (table["cases"] >= 5).all()
    assert table["n_seeds"].eq(2).all()


def test_without_scikit_survival_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sksurv.nonparametric", None)
    problems, trials = problem_and_trials()
    with pytest.raises(StageError, match=r"drasclr\[survival\]") as caught:
        horizons(trials, problems, bootstrap=100)
    assert caught.value.code == "no-scikit-survival"
