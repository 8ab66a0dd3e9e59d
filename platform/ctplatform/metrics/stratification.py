"""TODO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

FOLDS = 4
STRATA = 5  # quantile bins of a numeric column, where there are subjects enough


def folds(strata_N: np.ndarray, *, seed: int, count: int = FOLDS) -> np.ndarray:
    """Fold number of each subject; strata are spread evenly over the folds, leave-one-out where there are few."""
    shuffled = np.random.default_rng(seed).permutation(len(strata_N))
    dealt = shuffled[np.argsort(strata_N[shuffled], kind="stable")]
    fold_N = np.empty(len(strata_N), int)
    fold_N[dealt] = np.arange(len(strata_N)) % min(count, len(strata_N))
    return fold_N


def stratified_order(strata: Sequence[int] | np.ndarray, *, seed: int) -> np.ndarray:
    """An order of which every beginning holds each stratum in nearly its share of the whole.

    Beginnings of different length are so nested, stratified subsets. Random by `seed`.
    """
    strata = np.asarray(strata)
    rng = np.random.default_rng(seed)
    keys = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        # The k-th of n stands at about (k + 1/2) / n; a shift shared within the stratum breaks ties at random.
        keys[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.lexsort((rng.random(len(keys)), keys))


def quantile_strata(values: np.ndarray, *, bins: int = STRATA) -> np.ndarray:
    """Bin numbers of a numeric label, by rank; fewer bins for few values."""
    bins = max(1, min(bins, len(values) // 4))
    ranks = pd.Series(values).rank(method="average", pct=True).to_numpy()
    return np.ceil(ranks * bins).astype(int) - 1
