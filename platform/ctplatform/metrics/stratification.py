"""Strata of labels, and folds and subsets of subjects that are balanced on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

FOLDS = 4
_EXCHANGED = 64  # candidates on either side that are compared at a time
STRATA = 5  # quantile bins of a numeric column, where there are subjects enough


def folds(strata_N: np.ndarray, *, seed: int, count: int = FOLDS) -> np.ndarray:
    """Fold number of each subject, [N]: each stratum is spread evenly over the folds; at most one fold a subject."""
    shuffled = np.random.default_rng(seed).permutation(len(strata_N))
    dealt = shuffled[np.argsort(strata_N[shuffled], kind="stable")]
    fold_N = np.empty(len(strata_N), int)
    fold_N[dealt] = np.arange(len(strata_N)) % min(count, len(strata_N))
    return fold_N


def stratified_order(strata: Sequence[int] | np.ndarray, *, seed: int) -> np.ndarray:
    """A random order in which the first n subjects, for every n, hold each stratum in nearly its share of the whole.

    Subsets taken from its start are so nested and stratified. `seed` fixes it.
    """
    strata = np.asarray(strata)
    rng = np.random.default_rng(seed)
    keys = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        # The k-th of n lies at about (k + 1/2) / n; one random shift for the whole stratum breaks ties between strata.
        keys[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.lexsort((rng.random(len(keys)), keys))


def balanced_subset(classes_NC: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """A subset of `count` subjects, as a mask [N], that holds every class of every column in about its share.

    A random draw that is stratified on all columns together leaves many strata of one subject; subjects are then
    exchanged as long as that brings the counts of the classes nearer to their shares, by the sum of squares.

    Args:
        classes_NC: class number of each subject in each column.
        count: subjects to choose.
        seed: of the draw.
    """
    profiles_PC, profile_N = np.unique(classes_NC, axis=0, return_inverse=True)
    profile_N = profile_N.ravel()
    member_PK = np.concatenate([column[:, None] == np.unique(column) for column in profiles_PC.T], 1).astype(
        float
    )
    size_P = np.bincount(profile_N)
    order_N = stratified_order(profile_N, seed=seed)
    inside_P = np.bincount(profile_N[order_N[:count]], minlength=len(size_P))
    excess_K = (inside_P - size_P * count / max(len(profile_N), 1)) @ member_PK
    while True:
        excess_P = member_PK @ excess_K
        entering = np.flatnonzero(inside_P < size_P)
        leaving = np.flatnonzero(inside_P > 0)
        entering = entering[np.argsort(excess_P[entering], kind="stable")[:_EXCHANGED]]
        leaving = leaving[np.argsort(-excess_P[leaving], kind="stable")[:_EXCHANGED]]
        change_ELK = member_PK[entering][:, None] - member_PK[leaving][None]
        cost_EL = 2 * change_ELK @ excess_K + (change_ELK**2).sum(2)
        if not cost_EL.size or cost_EL.min() > -1e-9:
            break
        e, out = np.unravel_index(int(cost_EL.argmin()), cost_EL.shape)
        inside_P[entering[e]] += 1
        inside_P[leaving[out]] -= 1
        excess_K += change_ELK[e, out]
    rank_N = np.empty(
        len(profile_N), int
    )  # of a subject among those of its profile, in the order of the draw
    drawn = order_N[np.argsort(profile_N[order_N], kind="stable")]
    rank_N[drawn] = np.arange(len(drawn)) - np.repeat(np.cumsum(size_P) - size_P, size_P)
    chosen_N: np.ndarray = rank_N < inside_P[profile_N]
    return chosen_N


def quantile_strata(values: np.ndarray, *, bins: int = STRATA) -> np.ndarray:
    """Bin numbers of a numeric label, by rank; fewer bins for few values."""
    bins = max(1, min(bins, len(values) // 4))
    ranks = pd.Series(values).rank(method="average", pct=True).to_numpy()
    return np.asarray(np.ceil(ranks * bins).astype(int) - 1)
