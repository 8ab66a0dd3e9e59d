"""Stratified orders: every beginning of one holds the strata in their shares."""

from __future__ import annotations

import numpy as np

from ctplatform.metrics.stratification import stratified_order


def test_beginnings_of_the_order_hold_every_stratum_in_its_share():
    strata = np.repeat([0, 1, 2], [50, 30, 20])
    for seed in range(5):
        order = stratified_order(strata, seed=seed)
        assert sorted(order) == list(range(100))
        for count in (10, 25, 50, 80):
            found = np.bincount(strata[order[:count]], minlength=3)
            assert np.abs(found - count * np.array([0.5, 0.3, 0.2])).max() <= 1.0
