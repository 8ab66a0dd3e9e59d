"""Heads on frozen features that are kept after a sweep: fitted on all training subjects, validated and calibrated in
folds of these subjects only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctplatform.errors import StageError
from ctplatform.evaluation.horizons import DAYS, YEARS
from ctplatform.evaluation.kept_candidate import Candidate, Outcome, validation
from ctplatform.inference.kept_model import KeptModel
from ctplatform.metrics.calibration import bins, calibrate
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import folds
from ctplatform.tasks.fitted_head import FittedHead
from ctplatform.tasks.task import Task

FOLDS = 5
COVERAGE = 0.9
SEED = 0


@dataclass(frozen=True)
class Fit:
    """A head on all training subjects.

    Args:
        head: None for a head that is not the platform's.
        out_of_fold_N: each training subject predicted by a head that was fitted without it; None where a fold cannot
            be fitted.
    """

    head: FittedHead | None
    out_of_fold_N: np.ndarray | None


@dataclass(frozen=True, eq=False)
class HeadCandidate(Candidate):
    """A head on the frozen vectors of an initialisation."""

    def digest(self) -> str:
        """Of labels and vectors."""
        return self.problem.digest(self.initialisation)

    def fit(self) -> Outcome | str:
        """Fit on all training subjects, and in folds."""
        x_NP = self.problem.features[self.initialisation][0]
        found = fit(self.task, x_NP, self.problem.train)
        if found.head is None:
            return "it is none of the platform's"
        head = found.head
        return Outcome(
            files=lambda card: KeptModel(head, card).files(),
            validation=validation(self.task.scores[0], self.problem.train, found.out_of_fold_N, folds=FOLDS),
            card={
                "features": {**self.features, "width": int(x_NP.shape[1])},
                "calibration": calibration(self.task, self.problem.train, found.out_of_fold_N),
                **curve_times(self.task, self.problem.train),
            },
        )


def curve_times(task: Task, train: Targets) -> dict[str, Any]:
    """Of survival: the days at which curves are given, within the training subjects' follow-up."""
    if task.kind != "survival":
        return {}
    days = [year * DAYS for year in YEARS if year * DAYS < train.value_N.max()]
    return {"curve_times": days or [float(np.median(train.value_N))]}


def fit(task: Task, x_NP: np.ndarray, targets: Targets) -> Fit:
    """A head on all training subjects, and their predictions by heads that were fitted without them."""
    head = FittedHead.of(task, task.probe().fit(x_NP, targets, seed=SEED))
    fold_N = folds(task.strata(targets), seed=SEED, count=FOLDS)
    out_of_fold_N = np.empty(len(targets))
    for fold in np.unique(fold_N):
        inside, outside = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        try:
            task.check(targets.take(inside))
            part = task.probe().fit(x_NP[inside], targets.take(inside), seed=SEED)
        except StageError:
            return Fit(head, None)
        out_of_fold_N[outside] = task.clip(part.predict(x_NP[outside]))
    return Fit(head, out_of_fold_N)


def calibration(
    task: Task, targets: Targets, out_of_fold_N: np.ndarray | None, *, count: int = FOLDS
) -> dict[str, Any] | None:
    """How far predictions of subjects that a model was not fitted on are off; `count` is the number of folds.

    regression, count: half the width of an interval that holds 90% of new labels, from the absolute residuals of the
    folds (Barber, Candes, Ramdas, Tibshirani, Ann. Statist. 2021, doi:10.1214/20-AOS1965; without their correction
    between folds). binary: shares with the label 1 in bins of the predicted probability, with Wilson's 95% intervals.
    """
    if out_of_fold_N is None:
        return None
    basis = f"{len(targets)} training subjects in {count} folds"
    if task.kind in ("regression", "count"):
        rank = math.ceil((len(targets) + 1) * COVERAGE)
        if rank > len(targets):
            return None
        residual_N = np.sort(np.abs(targets.value_N - out_of_fold_N))
        return {"basis": basis, "coverage": COVERAGE, "half_width": float(residual_N[rank - 1])}
    if task.kind != "binary":
        return None
    found = bins(targets.value_N, out_of_fold_N)
    order_N = np.sort(out_of_fold_N)
    edges = np.cumsum([b.n for b in found])
    uppers = [float((order_N[e - 1] + order_N[e]) / 2) if e < len(order_N) else 1.0 for e in edges]
    agreement = calibrate(targets.value_N, out_of_fold_N[None], bootstrap=200)
    return {
        "basis": basis,
        "slope": _plain(agreement.slope),
        "in_the_large": _plain(agreement.in_the_large),
        "bins": [
            {"upper": upper, "observed": b.observed, "low": b.low, "high": b.high, "n": b.n}
            for b, upper in zip(found, uppers)
        ],
    }


def _plain(values: tuple[float, float, float]) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
