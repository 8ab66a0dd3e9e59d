"""Calibration of predicted probabilities: of 100 subjects with a predicted 30%, 30 should have the event.

Shape legend: N test subjects, B resamples, K bins.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctplatform.metrics.bootstrap import interval, resamples, wilson

STEPS = 30
STEEPEST = 50.0  # slopes beyond it come from resamples that are perfectly separated
LEAST_IN_BIN = 8
MOST_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Agreement of probabilities with outcomes, with 95% bootstrap intervals over subjects.

    Args:
        slope: of the logistic regression of the outcome on the logit of the prediction; 1 is ideal, less means that
            predictions are too extreme (Cox 1958; Van Calster et al., BMC Medicine 2019).
        in_the_large: intercept with that slope held at 1; 0 is ideal, less means that predictions are too high.
        predicted: mean of the predictions.
        observed: mean of the outcomes.
    """

    slope: tuple[float, float, float]
    in_the_large: tuple[float, float, float]
    predicted: float
    observed: float
    n: int


@dataclass(frozen=True)
class Bin:
    """Subjects of similar prediction: mean prediction, share with the event, Wilson's 95% interval, number."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


def calibrate(
    outcome_N: np.ndarray, probability_SN: np.ndarray, *, bootstrap: int = 1000, seed: int = 0
) -> Calibration:
    """Slope and calibration in the large of the predictions of some seeds, means over the seeds.

    Args:
        outcome_N: 0 or 1.
        probability_SN: predictions of each seed.
    """
    rows_BN = resamples(len(outcome_N), count=bootstrap, seed=seed)
    everyone = np.arange(len(outcome_N))[None]
    values = []
    for fit in (slopes, offsets):
        at = float(np.mean([fit(outcome_N, p_N, everyone)[0] for p_N in probability_SN]))
        low, high = interval(np.mean([fit(outcome_N, p_N, rows_BN) for p_N in probability_SN], axis=0))
        values.append((at, low, high))
    mean = float(probability_SN.mean())
    return Calibration(values[0], values[1], mean, float(outcome_N.mean()), len(outcome_N))


def slopes(outcome_N: np.ndarray, probability_N: np.ndarray, rows_BN: np.ndarray) -> NDArray[np.float64]:
    """Calibration slope of each resample; nan without both outcomes or with one prediction for all."""
    y_BN, x_BN = outcome_N[rows_BN].astype(float), _logit(probability_N)[rows_BN]
    bad_B = (y_BN.std(1) == 0) | (x_BN.std(1) < 1e-9)
    centre_B1 = x_BN.mean(1, keepdims=True)
    x_BN = x_BN - centre_B1
    scale_B = np.maximum(x_BN.std(1), 1e-9)
    x_BN = x_BN / scale_B[:, None]
    a_B, b_B = _logit(y_BN.mean(1)), np.zeros(len(y_BN))
    for _ in range(STEPS):
        p_BN = _expit(a_B[:, None] + b_B[:, None] * x_BN)
        w_BN = np.maximum(p_BN * (1 - p_BN), 1e-12)
        r_BN = y_BN - p_BN
        ga, gb = r_BN.sum(1), (r_BN * x_BN).sum(1)
        haa, hab, hbb = w_BN.sum(1), (w_BN * x_BN).sum(1), (w_BN * x_BN**2).sum(1)
        det = np.maximum(haa * hbb - hab**2, 1e-12)
        step_a, step_b = (hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det
        # The slope of a separated resample diverges: steps are limited, and so is the slope.
        a_B, b_B = a_B + np.clip(step_a, -3, 3), np.clip(b_B + np.clip(step_b, -3, 3), -60, 60)
    return np.where(bad_B, np.nan, np.clip(b_B / scale_B, -STEEPEST, STEEPEST))


def offsets(outcome_N: np.ndarray, probability_N: np.ndarray, rows_BN: np.ndarray) -> NDArray[np.float64]:
    """Calibration in the large of each resample: the shift of all logits that equates the means."""
    y_BN, x_BN = outcome_N[rows_BN].astype(float), _logit(probability_N)[rows_BN]
    a_B = np.zeros(len(y_BN))
    for _ in range(STEPS):
        p_BN = _expit(a_B[:, None] + x_BN)
        step_B = (y_BN - p_BN).sum(1) / np.maximum((p_BN * (1 - p_BN)).sum(1), 1e-9)
        a_B = a_B + np.clip(step_B, -2, 2)
    return np.where(y_BN.std(1) == 0, np.nan, a_B)


def bins(outcome_N: np.ndarray, probability_N: np.ndarray) -> list[Bin]:
    """Equally filled bins of the prediction, of 8 subjects at least; equal predictions are not divided."""
    count = max(1, min(MOST_BINS, len(outcome_N) // LEAST_IN_BIN))
    order = np.argsort(probability_N, kind="stable")
    ranked = probability_N[order]
    edges = {0, len(ranked)}
    for k in range(1, count):
        edge = k * len(ranked) // count
        edges.add(int(np.searchsorted(ranked, ranked[edge], side="left")))
    found = []
    bounds = sorted(edges)
    for start, end in itertools.pairwise(bounds):
        rows = order[start:end]
        hits = int(outcome_N[rows].sum())
        low, high = wilson(hits, len(rows))
        found.append(Bin(float(probability_N[rows].mean()), hits / len(rows), low, high, len(rows)))
    return found


def _logit(probability: np.ndarray) -> np.ndarray:
    inside = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))


def _expit(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -500, 500))))
