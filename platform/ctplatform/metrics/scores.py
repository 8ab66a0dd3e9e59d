"""Scores with intervals: every metric works on many bootstrap resamples of the test subjects at once.

Shape legend: N test subjects, B resamples. `rows_BN` holds, for each resample, the indices of the subjects drawn;
the score of the sample itself is the score of `rows = [[0, 1, .. N-1]]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CHUNK = 256  # resamples whose pair sums are formed at once


@dataclass(frozen=True)
class Targets:
    """The truth that predictions are compared with, one entry a subject.

    Args:
        value_N: the label, or the time to event or censoring for survival.
        event_N: whether the event was seen; None where nothing is censored.
    """

    value_N: np.ndarray
    event_N: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.value_N)

    def take(self, rows: np.ndarray) -> Targets:
        """The subjects at these positions."""
        return Targets(self.value_N[rows], None if self.event_N is None else self.event_N[rows])


Score = Callable[[Targets, np.ndarray, np.ndarray], np.ndarray]
Chance = Callable[[Targets, Targets], float]


@dataclass(frozen=True)
class Metric:
    """A score, and the chance level: what is reached with the training labels alone.

    Args:
        name: as in the tables.
        title: in the report.
        score: (targets, prediction_N, rows_BN) -> score of each resample; nan where it is undefined.
        chance: (training targets, test targets) -> score of the best constant or of a random order.
        higher_is_better: direction of the score.
    """

    name: str
    title: str
    score: Score
    chance: Chance
    higher_is_better: bool = True

    def value(self, targets: Targets, prediction_N: np.ndarray) -> float:
        """The score of the sample itself."""
        return float(self.score(targets, prediction_N, np.arange(len(targets))[None])[0])


def _r2(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    target_BN = targets.value_N[rows_BN]
    residual = np.square(target_BN - prediction_N[rows_BN]).sum(1)
    total = np.square(target_BN - target_BN.mean(1, keepdims=True)).sum(1)
    return 1 - _divide(residual, total)


def _d2(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    """Share of the Poisson deviance that is explained; R2 of counts (Cameron & Windmeijer 1996)."""
    count_BN, expected_BN = targets.value_N[rows_BN], np.maximum(prediction_N, 1e-9)[rows_BN]
    mean_B1 = np.maximum(count_BN.mean(1, keepdims=True), 1e-9)
    return 1 - _divide(_poisson_deviance(count_BN, expected_BN), _poisson_deviance(count_BN, mean_B1))


def _poisson_deviance(count_BN: np.ndarray, expected_BN: np.ndarray) -> np.ndarray:
    log_ratio_BN = np.log(np.where(count_BN > 0, count_BN, 1) / expected_BN)
    return np.asarray(
        2 * (np.where(count_BN > 0, count_BN * log_ratio_BN, 0) - count_BN + expected_BN).sum(1)
    )


def _mae(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(targets.value_N - prediction_N)[rows_BN].mean(1))


def _spearman(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    import pandas as pd  # scipy.stats would take each worker two seconds to import

    a_BN, b_BN = (
        pd.DataFrame(values_N[rows_BN]).rank(axis=1).to_numpy()
        for values_N in (targets.value_N, prediction_N)
    )
    a_BN -= a_BN.mean(1, keepdims=True)
    b_BN -= b_BN.mean(1, keepdims=True)
    spread_a, spread_b = np.square(a_BN).sum(1), np.square(b_BN).sum(1)
    # A constant prediction has no order: that is chance, not undefined.
    flat = (spread_b == 0) & (spread_a > 0)
    return np.where(flat, 0.0, _divide((a_BN * b_BN).sum(1), np.sqrt(spread_a * spread_b)))


def _exact(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    return np.asarray((targets.value_N == prediction_N).astype(float)[rows_BN].mean(1))


def _within_one(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    return np.asarray((np.abs(targets.value_N - prediction_N) <= 1).astype(float)[rows_BN].mean(1))


def _kappa(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    """Cohen's kappa with quadratic weights, by moments: 1 - E(t-p)^2 / (var t + var p + (mean t - mean p)^2)."""
    target_BN, predicted_BN = targets.value_N[rows_BN], prediction_N[rows_BN]
    observed = np.square(target_BN - predicted_BN).mean(1)
    expected = target_BN.var(1) + predicted_BN.var(1) + np.square(target_BN.mean(1) - predicted_BN.mean(1))
    return 1 - _divide(observed, expected)


def _brier(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(targets.value_N - prediction_N)[rows_BN].mean(1))


def _auroc(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    positive = targets.value_N > 0.5
    pairs_NN = positive[:, None] & ~positive[None, :]
    return pair_share(pairs_NN, prediction_N, rows_BN)


def _auprc(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    """Average precision; subjects with the same prediction enter together."""
    order = np.argsort(-prediction_N, kind="stable")
    last_of_ties = np.append(np.diff(prediction_N[order]) != 0, True)
    counts_BN = _counts(rows_BN, len(prediction_N))[:, order]
    hits_BN = np.cumsum(counts_BN * (targets.value_N[order] > 0.5), 1)[:, last_of_ties]
    called_BN = np.cumsum(counts_BN, 1)[:, last_of_ties]
    precision = np.divide(hits_BN, called_BN, out=np.zeros_like(hits_BN), where=called_BN > 0)
    return _divide((np.diff(hits_BN, axis=1, prepend=0) * precision).sum(1), hits_BN[:, -1])


def _concordance(targets: Targets, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    """Harrell's C (JAMA 1982;247:2543): predictions are risks; ties in risk count one half."""
    time, event = targets.value_N, targets.event_N
    assert event is not None
    earlier = time[:, None] < time[None, :]
    censored_then = (time[:, None] == time[None, :]) & ~event[None, :]
    return pair_share(event[:, None] & (earlier | censored_then), prediction_N, rows_BN)


def pair_share(pairs_NN: np.ndarray, prediction_N: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    """Weighted share of the ordered pairs (first, second) in which the first is predicted higher, [B].

    `pairs_NN` holds the weight of each pair, 0 for those that are not compared.
    """
    wins_NN = (prediction_N[:, None] > prediction_N[None, :]) + 0.5 * (
        prediction_N[:, None] == prediction_N[None, :]
    )
    won_NN, all_NN = (wins_NN * pairs_NN).astype(np.float32), pairs_NN.astype(np.float32)
    won, total = np.empty(len(rows_BN)), np.empty(len(rows_BN))
    for start in range(0, len(rows_BN), CHUNK):
        part = slice(start, start + CHUNK)
        counts = _counts(rows_BN[part], len(prediction_N)).astype(np.float32)
        won[part] = ((counts @ won_NN) * counts).sum(1, dtype=np.float64)
        total[part] = ((counts @ all_NN) * counts).sum(1, dtype=np.float64)
    return _divide(won, total)


def _counts(rows_BN: np.ndarray, subjects: int) -> np.ndarray:
    """Number of times each subject is in each resample, [B, N]."""
    flat = rows_BN + np.arange(len(rows_BN))[:, None] * subjects
    return np.bincount(flat.ravel(), minlength=len(rows_BN) * subjects).reshape(-1, subjects).astype(float)


def _divide(a_B: np.ndarray, b_B: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(a_B, b_B, out=np.full(len(a_B), np.nan), where=b_B > 0))


def _constant(score: Score, candidates: Callable[[Targets], np.ndarray], *, lowest: bool = False) -> Chance:
    """Chance of a metric: the test score of the constant among `candidates` that is best on the training labels."""

    def chance(train: Targets, test: Targets) -> float:
        everyone, options = np.arange(len(train))[None], candidates(train)
        scores = [score(train, np.full(len(train), c), everyone)[0] for c in options]
        best = options[int(np.argmin(scores) if lowest else np.argmax(scores))]
        return float(score(test, np.full(len(test), best), np.arange(len(test))[None])[0])

    return chance


def _always(value: float) -> Chance:
    return lambda train, test: value


def _classes(train: Targets) -> np.ndarray:
    return np.unique(train.value_N)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("r2", "R2", _r2, _always(0.0)),
        Metric("d2", "explained deviance", _d2, _always(0.0)),
        Metric("spearman", "Spearman's rho", _spearman, _always(0.0)),
        Metric(
            "mae",
            "mean absolute error",
            _mae,
            _constant(_mae, lambda train: np.array([np.median(train.value_N)]), lowest=True),
            higher_is_better=False,
        ),
        Metric("exact", "exact accuracy", _exact, _constant(_exact, _classes)),
        Metric("within_one", "within-one accuracy", _within_one, _constant(_within_one, _classes)),
        Metric("kappa", "quadratic kappa", _kappa, _always(0.0)),
        Metric("auroc", "AUROC", _auroc, _always(0.5)),
        Metric("auprc", "AUPRC", _auprc, lambda train, test: float(test.value_N.mean())),
        Metric(
            "brier",
            "Brier score",
            _brier,
            _constant(_brier, lambda train: np.array([train.value_N.mean()]), lowest=True),
            higher_is_better=False,
        ),
        Metric("c_index", "Harrell's C", _concordance, _always(0.5)),
    )
}
