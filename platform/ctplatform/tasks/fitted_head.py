"""A fitted head as plain numbers: a linear score and what it means, to be stored and applied elsewhere.

Shape legend: N scans, P features, T thresholds or times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctplatform.tasks.heads import Cumulative, Poisson, Probe, Ridge
from ctplatform.tasks.survival import Cox
from ctplatform.tasks.task import Task

TENSORS = ("weights_P", "thresholds_T", "classes_C", "times_T", "hazard_T")


def _none() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True)
class FittedHead:
    """A head's linear score, and how it becomes a prediction.

    Args:
        kind: of label.
        weights_P, bias: of the score, on features that are not standardised.
        valid: predicted numbers are moved into this range.
        thresholds_T, classes_C: ordinal and binary: the score's thresholds between neighbouring classes.
        times_T, hazard_T: survival: the baseline's cumulative hazard at the times of events, for a score of 0.
    """

    kind: str
    weights_P: np.ndarray
    bias: float
    valid: tuple[float, float] = (-np.inf, np.inf)
    thresholds_T: np.ndarray = field(default_factory=_none)
    classes_C: np.ndarray = field(default_factory=_none)
    times_T: np.ndarray = field(default_factory=_none)
    hazard_T: np.ndarray = field(default_factory=_none)

    @classmethod
    def of(cls, task: Task, head: Probe) -> FittedHead | None:
        """The numbers of a fitted head; None for a head of another class than the platform's."""
        if type(head) not in (Ridge, Cumulative, Poisson, Cox):
            return None
        weights_P, bias = head.linear()
        common: dict[str, Any] = {
            "kind": task.kind,
            "weights_P": weights_P,
            "bias": bias,
            "valid": task.valid,
        }
        if isinstance(head, Cumulative):
            return cls(**common, thresholds_T=head.thresholds_, classes_C=head.classes_.astype(float))
        if isinstance(head, Cox):
            hazard = head.model_.baseline_cumulative_hazard_
            times_T, hazard_T = hazard.index.to_numpy(float), hazard.iloc[:, 0].to_numpy(float)
            return cls(**common, times_T=times_T, hazard_T=hazard_T)
        return cls(**common)

    def predict(self, x_NP: np.ndarray) -> np.ndarray:
        """Numbers in the label's unit, classes, probabilities, counts, or log hazards, [N]."""
        score_N = x_NP @ self.weights_P + self.bias
        if self.kind == "regression":
            return np.asarray(np.clip(score_N, *self.valid))
        if self.kind == "count":
            return np.asarray(np.exp(score_N))
        if self.kind == "survival":
            return np.asarray(score_N)
        if self.kind == "binary":
            if len(self.classes_C) == 1:
                return np.full(len(x_NP), self.classes_C[0])
            return np.asarray(1 / (1 + np.exp(self.thresholds_T[0] - score_N)))
        return np.asarray(self.classes_C[(score_N[:, None] > self.thresholds_T).sum(1)])

    def survival(self, x_NP: np.ndarray, times_T: np.ndarray) -> np.ndarray:
        """Probability of no event by some times, [N, T]: exp(-H0(t) exp(score)), H0 a step function."""
        step_T = np.searchsorted(self.times_T, times_T, side="right")
        hazard_T = np.concatenate([[0.0], self.hazard_T])[step_T]
        return np.asarray(np.exp(-hazard_T * np.exp(self.predict(x_NP))[:, None]))

    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays and the bias by name, float64."""
        arrays = {name: np.ascontiguousarray(getattr(self, name), np.float64) for name in TENSORS}
        return {name: array for name, array in arrays.items() if array.size} | {"bias": np.array([self.bias])}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], *, kind: str, valid: tuple[float | None, float | None]
    ) -> FittedHead:
        """The inverse of `tensors`; an open end of `valid` is None.

        Raises:
            KeyError: weights or bias are absent.
        """
        low, high = valid
        return cls(
            kind=kind,
            weights_P=tensors["weights_P"],
            bias=float(tensors["bias"][0]),
            valid=(-np.inf if low is None else low, np.inf if high is None else high),
            **{name: tensors[name] for name in TENSORS[1:] if name in tensors},
        )
