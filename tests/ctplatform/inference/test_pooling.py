"""From the vectors of patches to one of a patient, on vectors whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.inference.pooling import LocationStatistics, height_weights, pool


def test_pooling_leaves_out_what_lies_outside():
    vectors = np.array([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]], np.float32)
    np.testing.assert_allclose(pool(vectors, np.array([[1.0, 1.0, 0.2]]), "mean"), [[2.0, 3.0]])
    both = pool(vectors, np.array([[1.0, 1.0, 0.2]]), "mean_std")
    np.testing.assert_allclose(both, [[2.0, 3.0, 1.0, 1.0]])
    np.testing.assert_allclose(pool(vectors, np.zeros((1, 3)), "mean"), vectors.mean(1))


def test_statistics_are_those_of_the_scans_that_hold_a_location():
    rng = np.random.default_rng(0)
    vectors_SND = rng.normal(size=(20, 3, 2))
    inside_SN = np.ones((20, 3))
    inside_SN[5:, 1] = 0.1
    inside_SN[:, 2] = 0.1  # no scan holds it: all are taken
    found = LocationStatistics.of(vectors_SND, inside_SN)
    np.testing.assert_allclose(found.mean_ND[0], vectors_SND[:, 0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.mean_ND[1], vectors_SND[:5, 1].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.spread_ND[1], vectors_SND[:5, 1].std(0), rtol=1e-5)
    np.testing.assert_allclose(found.spread_ND[2], vectors_SND[:, 2].std(0), rtol=1e-5)


def test_statistics_of_groups_are_those_of_all_scans_together():
    rng = np.random.default_rng(1)
    # Spread of a thousandth of the mean, as of a feature that differs between places only.
    vectors_SND = (100 + 0.1 * rng.normal(size=(30, 4, 3))).astype(np.float32)
    inside_SN = rng.random((30, 4))
    inside_SN[7:, 2] = 0.0
    inside_SN[:, 3] = 0.0
    whole = LocationStatistics.of(vectors_SND, inside_SN)
    parts = LocationStatistics.over((vectors_SND[i : i + 7], inside_SN[i : i + 7]) for i in range(0, 30, 7))
    assert parts is not None
    np.testing.assert_allclose(parts.mean_ND, whole.mean_ND, rtol=1e-6)
    np.testing.assert_allclose(parts.spread_ND, whole.spread_ND, rtol=1e-4)
    np.testing.assert_allclose(whole.spread_ND[0], vectors_SND[inside_SN[:, 0] >= 0.5, 0].std(0), rtol=1e-3)
    assert LocationStatistics.over([]) is None


def test_standardised_locations_count_alike():
    # The second location differs between scans a hundred times as much as the first: the mean is all its own.
    vectors_SND = np.array([[[1.0], [300.0]], [[3.0], [100.0]]])
    inside_SN = np.ones((2, 2))
    statistics = LocationStatistics.of(vectors_SND, inside_SN)
    np.testing.assert_allclose(pool(vectors_SND, inside_SN, "mean"), [[150.5], [51.5]])
    standardised = pool(
        vectors_SND,
        inside_SN,
        "standardised",
        LocationStatistics(statistics.mean_ND, np.maximum(statistics.spread_ND, 0)),
    )
    # Spreads 1 and 100, of which the median is 50.5: the floor of a tenth holds the first location back.
    np.testing.assert_allclose(standardised, [[(-1 / 5.05 + 1) / 2], [(1 / 5.05 - 1) / 2]], rtol=1e-4)


def test_spread_leaves_out_what_places_explain():
    place_ND = np.array([[0.0], [50.0], [-20.0], [7.0]])
    even_SND = np.stack([place_ND + 1, place_ND - 1])
    statistics = LocationStatistics(place_ND.astype(np.float32), np.ones((4, 1), np.float32))
    inside_SN = np.ones((1, 4))
    patchy_ND = place_ND + np.array([[3.0], [-3.0], [3.0], [-3.0]])
    even = pool(even_SND[:1], inside_SN, "standardised_spread", statistics)
    patchy = pool(patchy_ND[None], inside_SN, "standardised_spread", statistics)
    np.testing.assert_allclose(even, [[1.0, 0.0]], atol=1e-5)
    np.testing.assert_allclose(patchy, [[0.0, 3.0]], atol=1e-5)
    inside_SN[0, :2] = 0.0
    np.testing.assert_allclose(
        pool(patchy_ND[None], inside_SN, "standardised_spread", statistics), [[0.0, 3.0]], atol=1e-5
    )


def test_a_constant_feature_is_not_blown_up():
    vectors_SND = np.random.default_rng(2).normal(size=(10, 5, 2))
    vectors_SND[:, :, 1] = 4.0
    statistics = LocationStatistics.of(vectors_SND, np.ones((10, 5)))
    pooled = pool(vectors_SND + 1e-9, np.ones((10, 5)), "standardised", statistics)
    assert np.abs(pooled[:, 1]).max() < 0.01


def test_standardising_needs_statistics():
    with pytest.raises(ValueError, match="statistics"):
        pool(np.zeros((1, 2, 3)), np.ones((1, 2)), "standardised")


def _random(scans=6, locations=40, features=5):
    rng = np.random.default_rng(3)
    vectors_SND = rng.normal(size=(scans, locations, features)).astype(np.float32)
    centres_mm_N3 = rng.uniform(-150, 150, size=(locations, 3))
    return vectors_SND, (rng.random((scans, locations)) > 0.3).astype(float), centres_mm_N3


def test_gradient_is_the_slope_of_a_line_through_the_standardised_values():
    vectors_SND, inside_SN, centres_mm_N3 = _random()
    statistics = LocationStatistics.of(vectors_SND, inside_SN)
    found_SP = pool(vectors_SND, inside_SN, "standardised_gradient", statistics, centres_mm_N3)
    assert found_SP.shape == (6, 15)
    spread_SP = pool(vectors_SND, inside_SN, "standardised_spread", statistics)
    np.testing.assert_array_equal(found_SP[:, :10], spread_SP)
    height_N = centres_mm_N3[:, 2] / centres_mm_N3[:, 2].std()
    for scan, z_ND in enumerate(statistics.standardise(vectors_SND)):
        here = inside_SN[scan] >= 0.5
        slope_D = np.polyfit(height_N[here], z_ND[here], 1)[0]
        np.testing.assert_allclose(found_SP[scan, 10:], slope_D, atol=1e-5)


def test_gradient_rises_towards_the_apex():
    """LPS: the third axis points upwards. Neither the level nor what lies outside the scan counts."""
    centres_mm_N3 = np.array([[0.0, 0.0, z] for z in (-100.0, 0.0, 100.0, 0.0)])
    statistics = LocationStatistics(np.zeros((4, 1), np.float32), np.ones((4, 1), np.float32))
    upper_SND = np.array([[[4.0], [5.0], [6.0], [900.0]]])
    found = pool(upper_SND, np.array([[1, 1, 1, 0.1]]), "standardised_gradient", statistics, centres_mm_N3)
    np.testing.assert_allclose(found[0, 2], np.std([-100, 0, 100, 0]) / 100, rtol=1e-6)
    lower = pool(upper_SND[:, ::-1], np.ones((1, 4)), "standardised_gradient", statistics, centres_mm_N3)
    assert lower[0, 2] < 0


def test_gradient_of_few_heights_is_held_back():
    height_N = np.array([-3.0, -1.0, 1.0, 3.0])
    np.testing.assert_allclose(height_weights(np.array([[1, 0, 0, 0]]) > 0, height_N), 0)
    np.testing.assert_allclose(height_weights(np.ones((1, 3), bool), np.full(3, 7.0)), 0)
    # Two heights 1 below and above their mean have a fifth of the variance of all: a quarter stands for it.
    weights_SN = height_weights(np.array([[0, 1, 1, 0]]) > 0, height_N)
    weight = 1 / np.sqrt(5) / (2 * 0.25)
    np.testing.assert_allclose(weights_SN, [[0, -weight, weight, 0]], atol=1e-12)


def test_gradient_of_a_batch_is_that_of_each_scan_in_any_order_of_locations():
    vectors_SND, inside_SN, centres_mm_N3 = _random()
    statistics = LocationStatistics.of(vectors_SND, inside_SN)
    together = pool(vectors_SND, inside_SN, "standardised_gradient", statistics, centres_mm_N3)
    order = np.random.default_rng(4).permutation(len(centres_mm_N3))
    shuffled = LocationStatistics(statistics.mean_ND[order], statistics.spread_ND[order])
    for scan in range(len(vectors_SND)):
        one = slice(scan, scan + 1)
        alone = pool(vectors_SND[one], inside_SN[one], "standardised_gradient", statistics, centres_mm_N3)
        np.testing.assert_allclose(alone[0], together[scan], atol=1e-6)
        moved = pool(
            vectors_SND[one][:, order],
            inside_SN[one][:, order],
            "standardised_gradient",
            shuffled,
            centres_mm_N3[order],
        )
        np.testing.assert_allclose(moved[0], together[scan], atol=1e-6)


def test_gradient_needs_places():
    statistics = LocationStatistics(np.zeros((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="places of the locations"):
        pool(np.zeros((1, 2, 3)), np.ones((1, 2)), "standardised_gradient", statistics)
