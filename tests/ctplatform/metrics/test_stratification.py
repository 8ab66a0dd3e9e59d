"""Folds and stratified orders."""

import numpy as np

from ctplatform.metrics.stratification import balanced_subset, folds, quantile_strata, stratified_order


def test_folds_spread_the_classes():
    strata = np.repeat([0, 1], [30, 6])
    fold = folds(strata, seed=0, count=3)
    assert np.bincount(fold).tolist() == [12, 12, 12]
    assert all((fold[strata == 1] == k).sum() in (1, 2, 3) for k in range(3))
    assert len(np.unique(folds(np.zeros(2), seed=0))) == 2


def test_every_start_of_a_stratified_order_has_each_stratum_in_its_share():
    strata = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    for seed in range(5):
        order = stratified_order(strata, seed=seed)
        assert sorted(order) == list(range(100))
        for count in range(1, 101):
            found = np.bincount(strata[order[:count]], minlength=3)
            assert np.abs(found - count * np.array([0.6, 0.3, 0.1])).max() <= 1 + 1e-9


def test_the_seed_fixes_orders_and_folds():
    strata = np.repeat([0, 1], 20)
    for make in (stratified_order, folds):
        a, b, c = (make(strata, seed=seed).tolist() for seed in (1, 1, 2))
        assert a == b
        assert a != c


def test_quantile_strata_are_equally_filled_and_fewer_for_few_subjects():
    values = np.random.default_rng(0).permutation(np.arange(100.0))
    bins = quantile_strata(values)
    assert np.bincount(bins).tolist() == [20] * 5
    assert (bins == values // 20).all()
    assert np.bincount(quantile_strata(np.arange(9.0))).tolist() == [4, 5]
    assert set(quantile_strata(np.arange(5.0))) == {0}
    assert len(set(quantile_strata(np.zeros(40)))) == 1


def test_beginnings_of_the_order_hold_every_stratum_in_its_share():
    strata = np.repeat([0, 1, 2], [50, 30, 20])
    for seed in range(5):
        order = stratified_order(strata, seed=seed)
        assert sorted(order) == list(range(100))
        for count in (10, 25, 50, 80):
            found = np.bincount(strata[order[:count]], minlength=3)
            assert np.abs(found - count * np.array([0.5, 0.3, 0.2])).max() <= 1.0


def test_a_balanced_subset_holds_every_class_of_every_column_in_its_share():
    rng = np.random.default_rng(1)
    classes_NC = np.stack(
        [rng.geometric(0.3, 300).clip(0, 12), rng.integers(0, 4, 300), rng.integers(0, 9, 300)], 1
    )
    subsets = []
    for seed in range(4):
        chosen_N = balanced_subset(classes_NC, 100, seed=seed)
        assert chosen_N.sum() == 100
        for column_N in classes_NC.T:
            assert (
                np.abs(
                    np.bincount(column_N[chosen_N], minlength=13) - np.bincount(column_N, minlength=13) / 3
                ).max()
                < 2
            )
        subsets.append(chosen_N.tolist())
        assert balanced_subset(classes_NC, 100, seed=seed).tolist() == subsets[-1]
    assert len({tuple(subset) for subset in subsets}) == 4


def test_a_balanced_subset_of_none_of_all_and_of_no_subjects():
    classes_NC = np.array([[0, 1], [1, 0], [1, 1]])
    assert balanced_subset(classes_NC, 0, seed=0).tolist() == [False] * 3
    assert balanced_subset(classes_NC, 3, seed=0).tolist() == [True] * 3
    assert balanced_subset(np.empty((0, 2), int), 0, seed=0).shape == (0,)
