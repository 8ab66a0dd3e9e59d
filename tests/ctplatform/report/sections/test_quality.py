"""Intervals cover, histograms have readable axes, small values are not shown as zeros."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.report.sections import (
    quality,
)


def test_median_interval_covers_the_median_about_19_times_in_20():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = quality.median_interval(rng.normal(size=40), resamples=300)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_values_that_differ_by_rounding_make_one_bar_on_an_axis_of_plain_numbers():
    values = np.array([0.999991, 1.0, 0.999999])
    edges = quality.bin_edges(values)
    counts, _ = np.histogram(values, edges)
    assert sorted(counts) == [0, 0, 3]
    assert edges[-1] - edges[0] == pytest.approx(0.1)
    apart = quality.bin_edges(np.array([0.95, 1.0]))
    assert (apart[0], apart[-1]) == (0.95, 1.0)


def test_tiny_values_are_not_shown_as_zeros():
    assert quality.matched_decimals(0.0, 2.34e-5, 1e-6) == ["0", "2.3e-05", "1.0e-06"]
    assert quality.matched_decimals(0.0, 0.0, 0.0) == ["0.00", "0.00", "0.00"]
    assert quality.matched_decimals(0.123, 0.1, 0.2) == ["0.123", "0.100", "0.200"]
