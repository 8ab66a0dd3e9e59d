"""Survival: a penalised Cox model on principal components of the representation (lifelines), scored by Harrell's C."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np

from ctplatform.errors import StageError
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import folds
from ctplatform.tasks.heads import Standardiser

if TYPE_CHECKING:
    import pandas as pd
    from lifelines import CoxPHFitter

logger = logging.getLogger(__name__)


class Cox:
    """Cox's proportional hazards on K principal components, L2-penalised on their standardised scale.

    K and the penalty have the highest cross-validated partial likelihood on the training subjects (Verweij &
    van Houwelingen 1993, doi:10.1002/sim.4780122407). No more components than one for two events are tried.

    Fitted attributes: `components_`, `penalty_`, `model_` (lifelines CoxPHFitter).
    """

    candidates = ((1, 0.1), (2, 0.1), (4, 0.3), (8, 1.0))
    folds = 3

    def fit(self, x_NP: np.ndarray, targets: Targets, *, seed: int) -> Cox:
        """Fit; `seed` fixes the inner folds.

        Raises:
            StageError: no candidate converges.
        """
        assert targets.event_N is not None
        self._standardise = Standardiser(x_NP)
        scaled_NP = self._standardise(x_NP)
        _, singular_K, right_KP = np.linalg.svd(scaled_NP, full_matrices=False)
        rank = int((singular_K > 1e-6 * max(singular_K.max(), 1e-30)).sum())
        most = max(1, min(rank, int(targets.event_N.sum()) // 2, len(targets) - 2))
        self._basis_PK = right_KP[:most].T
        x_NK = scaled_NP @ self._basis_PK
        fold_N = folds(targets.event_N.astype(int), seed=seed, count=self.folds)
        tried = sorted({(min(k, most), penalty) for k, penalty in self.candidates})
        scored = [(self._held_out(x_NK, targets, fold_N, k, penalty), k, penalty) for k, penalty in tried]
        # Of equal scores, and where all fail, the smallest model that converges is taken.
        for _, k, penalty in sorted(scored, key=lambda item: (-item[0], item[1], -item[2])):
            model = _fit(x_NK[:, :k], targets, penalty)
            if model is not None:
                self.components_, self.penalty_, self.model_ = k, penalty, model
                self._table = _table(x_NK[:, :k], targets)
                return self
        raise StageError(
            f"Cox's model does not converge on {len(targets)} subjects with {int(targets.event_N.sum())} events",
            "Label more subjects, or leave the task out of sweep.tasks",
            code="no-convergence",
        )

    def details(self) -> dict[str, float]:
        """Number of components and penalty, and a test of proportional hazards on the training subjects.

        `schoenfeld_p`: the least p over the components of the test of scaled Schoenfeld residuals against ranks of
        time (Grambsch & Therneau 1994, doi:10.1093/biomet/81.3.515), times their number (Bonferroni).
        """
        from lifelines.statistics import proportional_hazard_test

        found = {"components": float(self.components_), "penalty": float(self.penalty_)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                test = proportional_hazard_test(self.model_, self._table, time_transform="rank")
            except (ValueError, np.linalg.LinAlgError, ZeroDivisionError) as error:
                logger.debug("no Schoenfeld test: %s", error)
                return found
        p_K = np.atleast_1d(np.asarray(test.p_value, float))
        if np.isfinite(p_K).all():
            found["schoenfeld_p"] = float(min(1.0, p_K.min() * len(p_K)))
        return found

    def predict(self, x_NP: np.ndarray) -> np.ndarray:
        """Log partial hazard: higher means an earlier death."""
        return self._predict(self._standardise(x_NP) @ self._basis_PK[:, : self.components_])

    def linear(self) -> tuple[np.ndarray, float]:
        """Weights [P] and bias of the log partial hazard."""
        weights_K = self.model_.params_.to_numpy()
        # lifelines subtracts the training means of the components, so the score of the origin is not zero.
        bias = float(self._predict(np.zeros((1, self.components_)))[0])
        return self._standardise.undo(self._basis_PK[:, : self.components_] @ weights_K, bias)

    def _predict(self, x_NK: np.ndarray) -> np.ndarray:
        return np.asarray(self.model_.predict_log_partial_hazard(x_NK), float).ravel()

    def _held_out(
        self, x_NK: np.ndarray, targets: Targets, fold_N: np.ndarray, k: int, penalty: float
    ) -> float:
        total = 0.0
        for fold in np.unique(fold_N):
            inside = np.flatnonzero(fold_N != fold)
            model = _fit(x_NK[inside, :k], targets.take(inside), penalty)
            if model is None:
                return -np.inf
            score_N = x_NK[:, :k] @ model.params_.to_numpy()
            total += partial_likelihood(score_N, targets)
            total -= partial_likelihood(score_N[inside], targets.take(inside))
        return total


def partial_likelihood(score_N: np.ndarray, targets: Targets) -> float:
    """Cox's log partial likelihood, ties as Breslow."""
    assert targets.event_N is not None
    order = np.argsort(-targets.value_N, kind="stable")
    time, event, score = targets.value_N[order], targets.event_N[order], score_N[order]
    at_risk = np.logaddexp.accumulate(score)
    last = np.searchsorted(-time, -time, side="right") - 1  # tied subjects are all at risk
    return float((score - at_risk[last])[event].sum())


def breslow(score_N: np.ndarray, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """Baseline cumulative hazard for a score of 0, by Breslow (J. R. Stat. Soc. B 1972, 34, 216).

    Args:
        score_N: log hazards of subjects.
        targets: their times and events.

    Returns:
        Times of events, and the hazard up to each, [T] each.
    """
    assert targets.event_N is not None
    times_T, deaths_T = np.unique(targets.value_N[targets.event_N], return_counts=True)
    at_risk_T = [np.exp(score_N[targets.value_N >= time]).sum() for time in times_T]
    return times_T, np.cumsum(deaths_T / np.array(at_risk_T))


def _table(x_NK: np.ndarray, targets: Targets) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(x_NK, columns=[f"component_{i}" for i in range(x_NK.shape[1])])
    return table.assign(time=targets.value_N, event=targets.event_N)


def _fit(x_NK: np.ndarray, targets: Targets, penalty: float) -> CoxPHFitter | None:
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    assert targets.event_N is not None
    if not targets.event_N.any() or (x_NK.std(0) < 1e-9).any():
        return None
    with warnings.catch_warnings():
        # Small subsets: the penalty handles low variance and separation, of which lifelines warns.
        warnings.simplefilter("ignore")
        try:
            return CoxPHFitter(penalizer=penalty).fit(_table(x_NK, targets), "time", "event")
        except (ConvergenceError, np.linalg.LinAlgError, ZeroDivisionError) as error:
            logger.debug("Cox with %d components did not converge: %s", x_NK.shape[1], error)
            return None
