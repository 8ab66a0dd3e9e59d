"""The Cox head."""

import numpy as np
import pytest

from ctplatform.metrics.scores import METRICS, Targets
from ctplatform.tasks.survival import Cox, partial_likelihood


def survivors(count, width, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=count)
    x = hidden[:, None] * rng.normal(size=width) + 0.5 * rng.normal(size=(count, width))
    death, censoring = rng.exponential(np.exp(-1.2 * hidden)), rng.exponential(2.0, count)
    return x, Targets(np.minimum(death, censoring), death <= censoring), hidden


@pytest.mark.parametrize("width", [3, 128])
def test_cox_recovers_the_hazard(width):
    train, test = np.arange(80), np.arange(80, 200)
    short_of_truth = []
    for seed in range(3):
        x, targets, hidden = survivors(200, width, seed)
        risk = Cox().fit(x[train], targets.take(train), seed=0).predict(x[test])
        found, most = (METRICS["c_index"].value(targets.take(test), score) for score in (risk, hidden[test]))
        short_of_truth.append(most - found)
    assert np.mean(short_of_truth) < 0.05


def test_cox_fits_on_a_handful():
    x, targets, _ = survivors(7, 64, seed=3)
    assert np.isfinite(Cox().fit(x, targets, seed=0).predict(x)).all()


def test_partial_likelihood_by_hand():
    # Deaths at 1 (all three at risk) and 3 (one at risk); censored at 2.
    targets = Targets(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]))
    score = np.log(np.array([2.0, 1.0, 3.0]))
    assert partial_likelihood(score, targets) == pytest.approx(np.log(2 / 6) + np.log(3 / 3))


def test_partial_likelihood_with_ties_as_breslow():
    targets = Targets(np.array([1.0, 1.0, 2.0]), np.array([True, True, False]))
    assert partial_likelihood(np.zeros(3), targets) == pytest.approx(2 * np.log(1 / 3))


def test_crossing_hazards_are_found_by_the_proportionality_check():
    """A feature that kills early and spares late against one whose effect lasts."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], 400)
    lasting = Targets(rng.exponential(np.exp(-0.7 * x)), np.ones(400, bool))
    early = rng.exponential(np.exp(-1.5 * x))
    crossing = Targets(
        np.where(early < 0.5, early, 0.5 + rng.exponential(np.exp(1.5 * x))), np.ones(400, bool)
    )
    wide = x[:, None] * np.ones(4) + 0.01 * rng.normal(size=(400, 4))
    kept, broken = (Cox().fit(wide, t, seed=0).details() for t in (lasting, crossing))
    assert kept["schoenfeld_p"] > 0.01
    assert broken["schoenfeld_p"] < 1e-6
    assert kept["components"] >= 1


@pytest.mark.parametrize("width", [3, 64])
def test_the_linear_score_is_the_prediction(width):
    x, targets, _ = survivors(80, width, seed=2)
    head = Cox().fit(x, targets, seed=0)
    weights, bias = head.linear()
    assert x @ weights + bias == pytest.approx(head.predict(x), abs=1e-9)
