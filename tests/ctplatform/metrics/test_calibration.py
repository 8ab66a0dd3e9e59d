"""Calibration: slopes against statsmodels-free truth, bins against counting."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ctplatform.metrics.calibration import bins, calibrate, offsets, slopes


def draw(count, *, stretch=1.0, shift=0.0, seed=0):
    """Outcomes of known probability, and predictions whose logits are stretched and shifted."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=count)
    outcome = rng.random(count) < 1 / (1 + np.exp(-logit))
    return outcome.astype(float), 1 / (1 + np.exp(-(stretch * logit + shift)))


def test_the_slope_is_that_of_logistic_regression():
    outcome, probability = draw(300, stretch=2.0)
    logit = np.log(probability / (1 - probability))
    model = LogisticRegression(C=1e9, tol=1e-10).fit(logit[:, None], outcome)
    rows = np.random.default_rng(1).integers(0, 300, (4, 300))
    assert slopes(outcome, probability, np.arange(300)[None])[0] == pytest.approx(model.coef_[0, 0], rel=1e-4)
    for row, slope in zip(rows, slopes(outcome, probability, rows)):
        again = LogisticRegression(C=1e9, tol=1e-10).fit(logit[row][:, None], outcome[row])
        assert slope == pytest.approx(again.coef_[0, 0], rel=1e-4)


@pytest.mark.parametrize(("stretch", "shift"), [(1.0, 0.0), (2.0, 0.0), (1.0, 0.8)])
def test_wrong_probabilities_are_recognised(stretch, shift):
    outcome, probability = draw(2000, stretch=stretch, shift=shift)
    found = calibrate(outcome, probability[None], bootstrap=300)
    assert found.slope[1] < 1 / stretch < found.slope[2]
    assert found.slope[0] == pytest.approx(1 / stretch, abs=0.15)
    if stretch == 1:
        assert found.in_the_large[1] < -shift < found.in_the_large[2]
        assert offsets(outcome, probability, np.arange(2000)[None])[0] == pytest.approx(-shift, abs=0.15)


def test_the_interval_covers_the_truth_about_19_times_in_20():
    hits = 0
    for seed in range(100):
        outcome, probability = draw(80, seed=seed)
        _, low, high = calibrate(outcome, probability[None], bootstrap=200).slope
        hits += low <= 1 <= high
    assert hits >= 87


def test_what_cannot_be_calibrated_is_undefined():
    assert np.isnan(slopes(np.ones(5), np.linspace(0.1, 0.9, 5), np.arange(5)[None])[0])
    assert np.isnan(slopes(np.array([0.0, 1, 0]), np.full(3, 0.5), np.arange(3)[None])[0])
    separated = slopes(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]), np.arange(4)[None])[0]
    assert 1 < separated <= 50


def test_bins_hold_everybody_once_and_do_not_divide_equals():
    outcome, probability = draw(83)
    found = bins(outcome, probability)
    assert sum(b.n for b in found) == 83
    assert sum(b.n * b.observed for b in found) == pytest.approx(outcome.sum())
    assert all(b.low <= b.observed <= b.high for b in found)
    assert [b.predicted for b in found] == sorted(b.predicted for b in found)
    assert len(bins(outcome, np.full(83, 0.3))) == 1
