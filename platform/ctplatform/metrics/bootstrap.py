"""Bootstrap over subjects: resamples, percentile intervals, paired comparisons; and numbers of labels at a target."""

from __future__ import annotations

import numpy as np


def resamples(subjects: int, *, count: int, seed: int = 0) -> np.ndarray:
    """Indices of `count` bootstrap resamples of the subjects, [B, N]."""
    return np.random.default_rng(seed).integers(0, subjects, size=(count, subjects))


def interval(values_B: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13); nan if most resamples are undefined."""
    defined = values_B[np.isfinite(values_B)]
    if len(defined) < len(values_B) / 2:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def wilson(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95% interval of a share k/n (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    p, centre = k / n, (k / n + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def paired_p(differences_B: np.ndarray) -> float:
    """Two-sided bootstrap p of "no difference": twice the share of resamples of other sign, at least 2 / (B + 1)."""
    defined = differences_B[np.isfinite(differences_B)]
    if len(defined) < len(differences_B) / 2:
        return float("nan")
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(defined) + 1)))


def labels_needed(n_F: np.ndarray, score_BF: np.ndarray, target_B: np.ndarray) -> np.ndarray:
    """Number of labels at which a curve of scores (higher is better) reaches a target, [B]; inf where none does.

    Between the last point below the target and the first one at or above it the score is interpolated linearly in
    log n. Where the first point has reached it, its own n is taken, an upper bound.

    Args:
        n_F: numbers of labels, ascending.
        score_BF: the score at each, of each resample.
        target_B: the target of each resample; nan where it is undefined.
    """
    n_F = np.asarray(n_F, float)
    reached_BF = score_BF >= target_B[:, None]
    first_B = reached_BF.argmax(1)
    before_B, every_B = np.maximum(first_B - 1, 0), np.arange(len(score_BF))
    low_B, high_B = score_BF[every_B, before_B], score_BF[every_B, first_B]
    rise_B = high_B - low_B
    share_B = np.divide(target_B - low_B, rise_B, out=np.ones(len(rise_B)), where=rise_B > 0)
    needed_B = n_F[before_B] * (n_F[first_B] / n_F[before_B]) ** np.clip(share_B, 0, 1)
    needed_B = np.where(reached_BF.any(1), needed_B, np.inf)
    return np.where(np.isfinite(target_B) & np.isfinite(score_BF).all(1), needed_B, np.nan)


def interval_with_infinity(values_B: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """As `interval`, of values that may be infinite; its ends are values of the sample."""
    defined = values_B[~np.isnan(values_B)]
    if len(defined) < len(values_B) / 2:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
