"""The report's arithmetic: intervals, groups, neighbours, hazards; against closed forms and known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from ctplatform.report.sections import cohort, hazards, nearest, quality, savings, survival
from ctplatform.report.sections.provenance import _elapsed


def test_wilson_is_wilson():
    for n in (1, 7, 60):
        for k in (0, 1, n // 2, n):
            expected = binomtest(k, n).proportion_ci(method="wilson")
            np.testing.assert_allclose(cohort.wilson(k, n), (expected.low, expected.high), atol=1e-6)


def test_reasons_that_differ_in_numbers_are_one():
    counted = cohort.reason_counts(
        ["61 cm2 of lung is cut; Dice 0.6", "88 cm2 of lung is cut", "no lung", "no lung"]
    )
    assert counted == [("61 to 88 cm2 of lung is cut", 2), ("no lung", 2), ("Dice 0.6", 1)]


def test_median_interval_covers_the_median_about_19_times_in_20():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = quality.median_interval(rng.normal(size=40), resamples=300)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_values_that_differ_by_rounding_make_one_bar_on_an_axis_of_plain_numbers():
    values = np.array([0.999991, 1.0, 0.999999])
    edges = quality._edges(values)
    counts, _ = np.histogram(values, edges)
    assert sorted(counts) == [0, 0, 3]
    assert edges[-1] - edges[0] == pytest.approx(0.1)
    apart = quality._edges(np.array([0.95, 1.0]))
    assert (apart[0], apart[-1]) == (0.95, 1.0)


def test_tiny_values_are_not_shown_as_zeros():
    assert quality._alike(0.0, 2.34e-5, 1e-6) == ["0", "2.3e-05", "1.0e-06"]
    assert quality._alike(0.0, 0.0, 0.0) == ["0.00", "0.00", "0.00"]
    assert quality._alike(0.123, 0.1, 0.2) == ["0.123", "0.100", "0.200"]


def test_ends_of_an_interval_that_say_the_same_are_said_once():
    assert savings._interval(np.inf, np.inf, 8) == "not reached"
    assert savings._interval(5, np.inf, 8) == "at most 8 to not reached"
    assert savings._interval(12.2, 20, 8) == "13 to 20"


@pytest.mark.parametrize(("n", "groups"), [(29, 2), (30, 3), (46, 3)])
def test_risk_groups_are_even_and_ordered(n, groups):
    rng = np.random.default_rng(n)
    risk = rng.normal(size=n)
    rows = pd.concat(
        pd.DataFrame(
            {
                "subject_id": [f"s{i}" for i in range(n)],
                "seed": seed,
                "prediction": risk * scale,  # seeds may differ in scale: only the order counts
                "time": rng.exponential(np.exp(-2 * risk) * 1000) + 1,
                "event": 1.0,
            }
        )
        for seed, scale in ((0, 1.0), (1, 50.0))
    )
    rows["time"] = rows.groupby("subject_id")["time"].transform("first")
    grouped = survival.group(rows)
    sizes = grouped.rows["group"].value_counts()
    assert len(sizes) == groups == grouped.groups
    assert sizes.max() - sizes.min() <= 1
    order = pd.Series(risk, [f"s{i}" for i in range(n)])
    highest = [order[grouped.rows.index[grouped.rows["group"] == g]].max() for g in range(groups)]
    lowest = [order[grouped.rows.index[grouped.rows["group"] == g]].min() for g in range(groups)]
    assert all(high < low for high, low in zip(highest, lowest[1:]))
    assert grouped.p < 0.01


def test_neighbours_are_the_nearest_other_subjects():
    angles = np.array([0, 1, 2, 4, 8, 16, 90, 180, 270.0])
    vectors = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)
    unit = vectors @ vectors.T
    subjects = np.array(["a", "a", "b", "b", "c", "d", "e", "f", "g"])
    picked = nearest.neighbours(unit, subjects)
    assert picked[0].tolist() == [2, 4, 5, 6]  # not the subject's other scan, and one scan of b only
    assert all(subjects[i] not in subjects[row] for i, row in enumerate(picked))


def test_likeness_sees_what_the_vectors_know():
    rng = np.random.default_rng(0)
    laa = rng.uniform(0, 0.4, 60)
    subjects = np.arange(60).astype(str)
    knowing = np.stack([laa, rng.normal(0, 0.01, 60)], axis=1)
    for vectors, alike in ((knowing, True), (rng.normal(size=(60, 8)), False)):
        order = nearest.neighbours(nearest.similarities(vectors), subjects)
        near, far = nearest.likeness(laa, order)
        assert (near[2] < far[1]) == alike
        assert near[1] <= near[0] <= near[2]


def test_effects_that_change_with_time_are_recognised():
    rng = np.random.default_rng(0)
    risk = rng.normal(size=400)
    lasting = rng.exponential(1000 * np.exp(-risk))
    early = rng.exponential(1000 * np.exp(-2 * risk))
    fading = np.where(early < 300, early, 300 + rng.exponential(1000 * np.exp(risk)))
    kept, broken = (
        hazards.hazard(pd.DataFrame({"risk": risk, "time": time, "event": True}))
        for time in (lasting, fading)
    )
    assert kept.p > 0.01
    assert kept.ratio[1] < np.e < kept.ratio[2]
    assert broken.p < 1e-6
    at = np.array([0.1, 4.0])
    first, last = hazards.running_mean(broken.years, broken.effect, at)
    assert first > 1 > -0.2 > last
    few = pd.DataFrame({"risk": risk[:20], "time": lasting[:20], "event": [True] * 5 + [False] * 15})
    assert hazards.hazard(few) is None


def test_time_of_a_resumed_run_is_the_sum():
    assert _elapsed(pd.Series([1.0, 2.0, 3.0, 0.5, 4.0])) == 7.0
