"""The head on windows: multinomial logistic regression, tuned by the Dice of windows of held-out training subjects.

Legend: M windows, P features, C classes; class 0 is normal lung.
"""

from __future__ import annotations

import warnings

import numpy as np

from ctplatform.tasks.heads import Standardiser


class WindowHead:
    """Classes of windows from their features.

    Logistic regression gives probabilities at the classes' true frequencies, at which rare classes would hardly ever
    be painted. So the logarithm of a class' frequency, times `prior_`, is subtracted from its score before the largest
    is taken: 0 leaves the probabilities, 1 makes all classes equally likely (logit adjustment, Menon et al., ICLR 2021,
    arXiv 2007.07314). Penalty and `prior_` have the highest mean Dice of the classes but the first in folds over the
    training subjects.

    Fitted attributes: `penalty_`, `prior_`, `log_frequency_C`.
    """

    penalties = (0.003, 0.03, 0.3)  # scikit-learn's C, at a mean weight of 1
    folds = 3

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def fit(
        self, x_MP: np.ndarray, class_M: np.ndarray, weight_M: np.ndarray, subject_M: np.ndarray, *, seed: int
    ) -> WindowHead:
        """Fit; `seed` fixes the folds.

        Args:
            weight_M: how many windows each stands for.
            subject_M: the subject of each window.
        """
        self._standardise = Standardiser(x_MP)
        x_MP = self._standardise(x_MP)
        self.log_frequency_C = log_frequency(class_M, weight_M, self.classes)
        subjects = np.random.default_rng(seed).permutation(np.unique(subject_M))
        fold_of = {subject: number % self.folds for number, subject in enumerate(subjects)}
        fold_M = np.array([fold_of[s] for s in subject_M])
        scored = [(-1.0, self.penalties[len(self.penalties) // 2], 0.5)]
        for penalty in self.penalties if len(subjects) > 1 else ():
            score_MC = np.full((len(x_MP), self.classes), np.nan)
            for fold in np.unique(fold_M):
                inside = fold_M != fold
                if len(np.unique(class_M[inside])) > 1:
                    weights_CP, bias_C = self._solve(x_MP[inside], class_M[inside], weight_M[inside], penalty)
                    score_MC[~inside] = x_MP[~inside] @ weights_CP.T + bias_C
            known = np.isfinite(score_MC[:, 0])
            if known.any():
                held_out = score_MC[known], class_M[known], weight_M[known]
                prior, value = best_prior(*held_out, self.log_frequency_C)
                scored.append((value, penalty, prior))
        _, self.penalty_, self.prior_ = max(scored, key=lambda item: item[0])
        self._weights_CP, self._bias_C = self._solve(x_MP, class_M, weight_M, self.penalty_)
        return self

    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights [C, P] and bias [C] of the scores at the classes' true frequencies, on features as they come."""
        parts = [self._standardise.undo(w_P, b) for w_P, b in zip(self._weights_CP, self._bias_C)]
        return np.stack([w_P for w_P, _ in parts]), np.array([b for _, b in parts])

    def predict(self, x_MP: np.ndarray) -> np.ndarray:
        """Probabilities [M, C], the offset applied."""
        score_MC = self._standardise(x_MP) @ self._weights_CP.T + self._bias_C
        return softmax(score_MC - self.prior_ * self.log_frequency_C)

    def _solve(
        self, x_MP: np.ndarray, class_M: np.ndarray, weight_M: np.ndarray, penalty: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights [C, P] and bias [C]; a class that does not occur has a score that never wins."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        weights_CP, bias_C = np.zeros((self.classes, x_MP.shape[1])), np.full(self.classes, NEVER)
        present = np.unique(class_M)
        if len(present) == 1:
            bias_C[present] = 0
            return weights_CP, bias_C
        model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3)
        with warnings.catch_warnings():
            # An approximate solution is enough: the penalty is chosen by its held-out score.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x_MP, class_M, sample_weight=weight_M / weight_M.mean())
        coefficients, intercept = model.coef_, model.intercept_
        if len(present) == 2:  # scikit-learn keeps one row for two classes
            coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
            intercept = np.concatenate([[0.0], intercept])
        weights_CP[present], bias_C[present] = coefficients, intercept
        return weights_CP, bias_C


NEVER = -60.0  # score of a class without a window
PRIORS = (0.0, 0.25, 0.5, 0.75, 1.0)


def log_frequency(class_M: np.ndarray, weight_M: np.ndarray, classes: int) -> np.ndarray:
    """Logarithm of the classes' frequencies, [C]; 0 for a class that does not occur."""
    share_C = np.bincount(class_M, weights=weight_M, minlength=classes) / weight_M.sum()
    return np.log(np.where(share_C > 0, share_C, 1.0))


def best_prior(
    score_MC: np.ndarray, class_M: np.ndarray, weight_M: np.ndarray, log_frequency_C: np.ndarray
) -> tuple[float, float]:
    """The factor of the log frequency that is to be subtracted, and the mean Dice of the classes but the first."""
    scored = []
    for prior in PRIORS:
        called_M = (score_MC - prior * log_frequency_C).argmax(1)
        scored.append((mean_dice(called_M, class_M, weight_M, len(log_frequency_C)), -prior))
    value, negative = max(scored)
    return -negative, value


def mean_dice(called_M: np.ndarray, class_M: np.ndarray, weight_M: np.ndarray, classes: int) -> float:
    """Mean Dice of the classes but the first that occur; 0 if none does."""
    values = []
    for c in range(1, classes):
        called, true = called_M == c, class_M == c
        if true.any():
            total = weight_M[called].sum() + weight_M[true].sum()
            values.append(2 * weight_M[called & true].sum() / total)
    return float(np.mean(values)) if values else 0.0


def softmax(score_MC: np.ndarray) -> np.ndarray:
    """Scores to probabilities."""
    e_MC = np.exp(score_MC - score_MC.max(1, keepdims=True))
    return np.asarray(e_MC / e_MC.sum(1, keepdims=True))
