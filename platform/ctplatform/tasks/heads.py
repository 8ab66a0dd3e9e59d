"""Heads on frozen representations. Hyper-parameters come from inner cross-validation on the training subjects only.

Shape legend: N subjects, P features, K components. Features are standardised with the training subjects' mean and SD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import folds

if TYPE_CHECKING:
    from sklearn.linear_model import PoissonRegressor

NEWTON_STEPS = 50  # at most; about five are needed


class Probe(Protocol):
    """A head that is fitted on frozen representations."""

    def fit(self, x_NP: np.ndarray, targets: Targets, *, seed: int) -> Probe:
        """Fit on the training subjects; `seed` fixes the inner folds."""

    def predict(self, x_NP: np.ndarray) -> np.ndarray:
        """One prediction a subject."""

    def linear(self) -> tuple[np.ndarray, float]:
        """Weights [P] and bias of the score behind the predictions, on features that are not standardised."""

    def details(self) -> dict[str, float]:
        """Chosen penalties and numbers of components, and checks of the fit."""


class Standardiser:
    """Features to zero mean and unit SD; features that do not vary are left at zero."""

    def __init__(self, x_NP: np.ndarray) -> None:
        self.mean_P = x_NP.mean(0)
        spread_P = x_NP.std(0)
        self.scale_P = np.where(
            spread_P > 1e-9 * (1 + np.abs(self.mean_P)), 1 / np.maximum(spread_P, 1e-300), 0
        )

    def __call__(self, x_NP: np.ndarray) -> np.ndarray:
        return np.asarray((x_NP - self.mean_P) * self.scale_P)

    def undo(self, weights_P: np.ndarray, bias: float = 0.0) -> tuple[np.ndarray, float]:
        """Weights and bias on features that are not standardised, from those on standardised ones."""
        scaled_P = weights_P * self.scale_P
        return scaled_P, float(bias - self.mean_P @ scaled_P)


class Ridge:
    """Ridge regression; the penalty has the least leave-one-out error, in closed form (Golub, Heath, Wahba 1979).

    Fitted attributes: `penalty_`, `coefficients_P_`, `intercept_`.
    """

    penalties = np.logspace(-2, 6, 25)

    def fit(self, x_NP: np.ndarray, targets: Targets, *, seed: int) -> Ridge:
        """Fit; `seed` is not used, nothing is random here."""
        y_N = targets.value_N.astype(float)
        self._standardise = Standardiser(x_NP)
        self.intercept_ = float(y_N.mean())
        left_NK, singular_K, right_KP = np.linalg.svd(self._standardise(x_NP), full_matrices=False)
        projected_K = left_NK.T @ (y_N - self.intercept_)
        shrink_AK = singular_K**2 / (singular_K**2 + self.penalties[:, None])
        fitted_AN = (shrink_AK * projected_K) @ left_NK.T
        leverage_AN = shrink_AK @ np.square(left_NK).T + 1 / len(y_N)
        error_A = np.square((y_N - self.intercept_ - fitted_AN) / np.maximum(1 - leverage_AN, 1e-9)).mean(1)
        # The strongest of the equally good penalties.
        best = len(error_A) - 1 - int(np.argmin(error_A[::-1]))
        self.penalty_ = float(self.penalties[best])
        self.coefficients_P_ = right_KP.T @ (singular_K / (singular_K**2 + self.penalty_) * projected_K)
        return self

    def details(self) -> dict[str, float]:
        """The chosen penalty."""
        return {"penalty": self.penalty_}

    def predict(self, x_NP: np.ndarray) -> np.ndarray:
        """Predicted label, in the label's unit."""
        return self._standardise(x_NP) @ self.coefficients_P_ + self.intercept_

    def linear(self) -> tuple[np.ndarray, float]:
        """Weights [P] and bias of the prediction."""
        return self._standardise.undo(self.coefficients_P_, self.intercept_)


class Cumulative:
    """Ordered classes by one score and a threshold between neighbouring classes (all-threshold logistic loss, L2).

    Rennie & Srebro, "Loss functions for preference levels", 2005. With two classes it is logistic regression.
    The penalty has the least held-out loss in stratified folds. Only classes among the training labels are predicted.

    Args:
        probability: predict the probability of the upper one of two classes instead of the class.

    Fitted attributes: `penalty_`, `classes_`, `weights_K_`, `thresholds_`.
    """

    penalties = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)

    def __init__(self, *, probability: bool = False) -> None:
        self.probability = probability

    def fit(self, x_NP: np.ndarray, targets: Targets, *, seed: int) -> Cumulative:
        """Fit; `seed` fixes the inner folds."""
        self._standardise = Standardiser(x_NP)
        scaled_NP = self._standardise(x_NP)
        # A basis of the rows' span: exact, and cheap where P > N.
        _, singular_K, right_KP = np.linalg.svd(scaled_NP, full_matrices=False)
        self._basis_PK = right_KP[singular_K > 1e-9 * max(singular_K.max(), 1e-30)].T / np.sqrt(x_NP.shape[1])
        x_NK = scaled_NP @ self._basis_PK
        self.classes_, level_N = np.unique(targets.value_N, return_inverse=True)
        self.penalty_ = self.penalties[-1]
        fold_N = folds(level_N, seed=seed)
        if len(np.unique(fold_N)) > 1:
            losses = [self._held_out(x_NK, level_N, fold_N, penalty) for penalty in self.penalties]
            self.penalty_ = self.penalties[len(losses) - 1 - int(np.argmin(losses[::-1]))]
        self.weights_K_, self.thresholds_ = _fit_cumulative(x_NK, level_N, len(self.classes_), self.penalty_)
        return self

    def details(self) -> dict[str, float]:
        """The chosen penalty."""
        return {"penalty": self.penalty_}

    def predict(self, x_NP: np.ndarray) -> np.ndarray:
        """The median class, or the probability of the upper class."""
        score_N = self._standardise(x_NP) @ self._basis_PK @ self.weights_K_
        if self.probability:
            if len(self.classes_) == 1:
                return np.full(len(x_NP), float(self.classes_[0]))
            return np.asarray(1 / (1 + np.exp(self.thresholds_[0] - score_N)))
        return np.asarray(self.classes_[(score_N[:, None] > self.thresholds_).sum(1)].astype(float))

    def linear(self) -> tuple[np.ndarray, float]:
        """Weights [P] and bias of the score that `thresholds_` divide into classes."""
        return self._standardise.undo(self._basis_PK @ self.weights_K_)

    def _held_out(self, x_NK: np.ndarray, level_N: np.ndarray, fold_N: np.ndarray, penalty: float) -> float:
        total = 0.0
        for fold in np.unique(fold_N):
            inside, outside = fold_N != fold, fold_N == fold
            weights, thresholds = _fit_cumulative(x_NK[inside], level_N[inside], len(self.classes_), penalty)
            score = x_NK[outside] @ weights
            total += _threshold_loss(score, level_N[outside], thresholds).sum()
        return total


class Poisson:
    """Counts by a log-linear Poisson regression with an L2 penalty, in the span of the rows (scikit-learn).

    The penalty has the least held-out deviance in folds stratified by the count.

    Fitted attributes: `penalty_`, `model_` (scikit-learn PoissonRegressor).
    """

    penalties = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)

    def fit(self, x_NP: np.ndarray, targets: Targets, *, seed: int) -> Poisson:
        """Fit; `seed` fixes the inner folds."""
        count_N = targets.value_N.astype(float)
        self._standardise = Standardiser(x_NP)
        scaled_NP = self._standardise(x_NP)
        _, singular_K, right_KP = np.linalg.svd(scaled_NP, full_matrices=False)
        self._basis_PK = right_KP[singular_K > 1e-9 * max(singular_K.max(), 1e-30)].T / np.sqrt(x_NP.shape[1])
        if not self._basis_PK.size:  # features that do not vary
            self._basis_PK = np.zeros((x_NP.shape[1], 1))
        x_NK = scaled_NP @ self._basis_PK
        fold_N = folds(np.minimum(count_N, 3).astype(int), seed=seed)
        losses = [self._held_out(x_NK, count_N, fold_N, penalty) for penalty in self.penalties]
        self.penalty_ = self.penalties[len(losses) - 1 - int(np.argmin(losses[::-1]))]
        self.model_ = _fit_poisson(x_NK, count_N, self.penalty_)
        return self

    def predict(self, x_NP: np.ndarray) -> np.ndarray:
        """The expected count."""
        return np.asarray(self.model_.predict(self._standardise(x_NP) @ self._basis_PK), float)

    def linear(self) -> tuple[np.ndarray, float]:
        """Weights [P] and bias of the logarithm of the expected count."""
        return self._standardise.undo(self._basis_PK @ self.model_.coef_, float(self.model_.intercept_))

    def _held_out(self, x_NK: np.ndarray, count_N: np.ndarray, fold_N: np.ndarray, penalty: float) -> float:
        total = 0.0
        for fold in np.unique(fold_N):
            inside, outside = fold_N != fold, fold_N == fold
            if not count_N[inside].any():
                return np.inf
            expected_N = _fit_poisson(x_NK[inside], count_N[inside], penalty).predict(x_NK[outside])
            total += float((expected_N - count_N[outside] * np.log(expected_N)).sum())
        return total

    def details(self) -> dict[str, float]:
        """The chosen penalty."""
        return {"penalty": self.penalty_}


def _fit_poisson(x_NK: np.ndarray, count_N: np.ndarray, penalty: float) -> PoissonRegressor:
    from sklearn.linear_model import PoissonRegressor

    return PoissonRegressor(alpha=penalty, solver="newton-cholesky", max_iter=200).fit(x_NK, count_N)


def _threshold_loss(score_N: np.ndarray, level_N: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    above_NT = level_N[:, None] > np.arange(len(thresholds))
    return np.asarray(np.logaddexp(0, np.where(above_NT, -1, 1) * (score_N[:, None] - thresholds)).sum(1))


def _fit_cumulative(
    x_NK: np.ndarray, level_N: np.ndarray, classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and thresholds by damped Newton steps; the loss is strictly convex."""
    count, width = x_NK.shape
    above_NT = level_N[:, None] > np.arange(classes - 1)
    share_T = (above_NT.sum(0) + 0.5) / (count + 1)
    anchor = np.concatenate([np.zeros(width), -np.log(share_T / (1 - share_T))])
    # The thresholds are held gently too: a class that a fold lacks must not send one to infinity.
    hold = np.concatenate([np.full(width, penalty), np.full(classes - 1, 1e-3)])
    sign_NT = np.where(above_NT, -1.0, 1.0)

    def value(parameters: np.ndarray) -> float:
        margin_NT = (x_NK @ parameters[:width])[:, None] - parameters[width:]
        return float(
            np.logaddexp(0, sign_NT * margin_NT).sum() / count + hold @ np.square(parameters - anchor) / 2
        )

    here, parameters = value(anchor), anchor
    for _ in range(NEWTON_STEPS):
        margin_NT = (x_NK @ parameters[:width])[:, None] - parameters[width:]
        chance_NT = 1 / (1 + np.exp(-np.clip(margin_NT, -500, 500)))
        slope_NT, bend_NT = (chance_NT - above_NT) / count, chance_NT * (1 - chance_NT) / count
        gradient = np.concatenate([x_NK.T @ slope_NT.sum(1), -slope_NT.sum(0)]) + hold * (parameters - anchor)
        hessian = np.diag(hold)
        hessian[:width, :width] += x_NK.T @ (bend_NT.sum(1)[:, None] * x_NK)
        hessian[:width, width:] -= x_NK.T @ bend_NT
        hessian[width:, :width] = hessian[:width, width:].T
        hessian[width:, width:] += np.diag(bend_NT.sum(0))
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while (there := value(parameters - size * step)) > here and size > 1e-4:
            size /= 2
        if here - there < 1e-10:
            break
        here, parameters = there, parameters - size * step
    return parameters[:width], np.sort(parameters[width:])
