"""Strata of labels, and folds and subsets of subjects that are balanced on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

FOLDS = 4
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


def quantile_strata(values: np.ndarray, *, bins: int = STRATA) -> np.ndarray:
    """Bin numbers of a numeric label, by rank; fewer bins for few values."""
    bins = max(1, min(bins, len(values) // 4))
    ranks = pd.Series(values).rank(method="average", pct=True).to_numpy()
    return np.asarray(np.ceil(ranks * bins).astype(int) - 1)
