"""Resamples, intervals, paired comparisons, labels needed."""

import numpy as np
import pytest

from ctplatform.metrics.bootstrap import (
    interval,
    interval_with_infinity,
    labels_needed,
    paired_p,
    resamples,
    wilson,
)
from ctplatform.metrics.scores import METRICS, Targets


def targets(*values, events=None):
    return Targets(np.array(values, float), None if events is None else np.array(events, bool))


def test_interval_covers_the_truth_as_often_as_it_says():
    """95% intervals of a mean absolute error of known expectation, over 300 cohorts of 50 subjects."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        truth = Targets(rng.normal(size=50))
        low, high = interval(METRICS["mae"].score(truth, np.zeros(50), resamples(50, count=400, seed=1)))
        covered += low <= np.sqrt(2 / np.pi) <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_paired_comparison_sees_what_unpaired_intervals_do_not():
    """Two predictions with the same large error, one of them with a little more: only the pairing can tell."""
    rng = np.random.default_rng(6)
    truth = Targets(rng.normal(size=60))
    shared = np.abs(rng.normal(scale=3, size=60))
    a, b = truth.value_N + shared, truth.value_N + shared + 0.2 * rng.random(60)
    rows = resamples(60, count=1000)
    score = METRICS["mae"].score
    draws_a, draws_b = score(truth, a, rows), score(truth, b, rows)
    assert interval(draws_a)[1] > interval(draws_b)[0]
    assert paired_p(draws_a - draws_b) < 0.01
    assert paired_p(rng.normal(size=1000)) > 0.5


def test_undefined_resamples_do_not_make_an_interval():
    one_event = targets(1, 2, 3, 4, events=[0, 0, 0, 0])
    draws = METRICS["c_index"].score(one_event, np.arange(4.0), resamples(4, count=100))
    assert np.isnan(draws).all()
    assert np.isnan(interval(draws)).all()
    assert np.isnan(paired_p(draws))


@pytest.mark.parametrize(
    ("scores", "target", "expected"),
    [
        ([0.1, 0.5, 0.9], 0.5, 40),  # a point that is exactly there
        ([0.1, 0.5, 0.9], 0.7, 80),  # half way from 40 to 160 in the logarithm
        ([0.6, 0.5, 0.9], 0.5, 10),  # there at once: the first point's own number
        ([0.1, 0.6, 0.3], 0.5, 10 * 4**0.8),  # the first time counts
        ([0.1, 0.5, 0.6], 0.7, np.inf),
    ],
)
def test_labels_needed_are_read_off_the_curve(scores, target, expected):
    found = labels_needed(np.array([10, 40, 160]), np.array([scores]), np.array([target]))
    assert found == pytest.approx([expected])


def test_an_undefined_resample_has_no_number_of_labels_and_infinity_may_end_an_interval():
    scores = np.array([[0.2, 0.4], [0.2, np.nan], [0.2, 0.4], [0.2, 0.4]])
    found = labels_needed(np.array([1, 2]), scores, np.array([0.4, 0.4, np.nan, 0.5]))
    assert found[0] == pytest.approx(2)
    assert np.isnan(found[1:3]).all()
    assert found[3] == np.inf
    low, high = interval_with_infinity(np.array([2.0] * 90 + [np.inf] * 10))
    assert (low, high) == (2.0, np.inf)
    assert np.isnan(interval_with_infinity(np.array([np.nan, np.nan, 1.0]))).all()


def test_wilsons_interval_is_that_of_the_textbook():
    """Newcombe, Statistics in Medicine 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for (k, n), expected in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(k, n) == pytest.approx(expected, abs=5e-5)


def test_resamples_are_those_of_the_seed():
    rows = resamples(7, count=50, seed=3)
    assert rows.shape == (50, 7)
    assert set(rows.ravel()) == set(range(7))
    assert (rows == resamples(7, count=50, seed=3)).all()
    assert (rows != resamples(7, count=50, seed=4)).any()


def test_the_interval_is_of_defined_values_and_needs_half_of_them():
    values = np.r_[np.arange(100.0), np.full(50, np.nan)]
    assert interval(values) == pytest.approx((2.475, 96.525))
    assert interval(values, level=0.5) == pytest.approx((24.75, 74.25))
    assert np.isnan(interval(np.r_[np.arange(49.0), np.full(51, np.nan)])).all()
