"""What the evidence shows beside its claims: all scores, every representation, and what the features hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.dataset.splits import read_split
from ctplatform.metrics.scores import METRICS
from drasclr.encoder import FEATURES
from tests.benchmarks import encoded
from tests.benchmarks import evidence_parts as parts
from tests.benchmarks.evidence_parts import (
    ALL,
    BEST_RANDOM,
    DENSITY,
    FEW,
    FRESH,
    HISTOGRAM,
    LABEL_COUNTS,
    MAIN,
    RANDOM,
    SEEDS,
    TRAINED,
)
from tests.benchmarks.evidence_scores import (
    REPRESENTATIONS,
    LabelledCohort,
    Patients,
    probe,
    problem_of,
    subset_of,
)

if TYPE_CHECKING:
    from tests.benchmarks.evidence_claims import Claims


def scores(claims: Claims) -> dict[str, Any]:
    """Mean score by method, task and number of labels, for tables and pictures."""
    found: dict[str, Any] = {}
    for encoder in (*parts.VARIANTS, RANDOM, BEST_RANDOM, DENSITY, HISTOGRAM):
        for task in claims.tasks:
            for labels in LABEL_COUNTS:
                try:
                    values = claims.frozen_score(encoder, task, labels).values()
                except (FileNotFoundError, KeyError):  # not run, or not with so many labels
                    continue
                found.setdefault(encoder, {}).setdefault(task, {})[str(labels)] = _rounded(values)
    for start in ("scratch", "finetune"):
        for task in TRAINED:
            for labels in (FEW, ALL):
                try:
                    values = claims.trained_score(start, task, labels).values()
                except FileNotFoundError:
                    continue
                found.setdefault(start, {}).setdefault(task, {})[str(labels)] = _rounded(values)
    return found


def representations(evidence: parts.Evidence) -> dict[str, Any]:
    """Every representation on the fresh cohorts, mean over five tasks; the choice was made on other subjects."""
    found: dict[str, Any] = {}
    problems = {
        (cohort, name): problem_of(evidence, cohort, task)
        for cohort in FRESH
        for name, (task, _) in parts.tasks().items()
    }
    for encoder in (MAIN, RANDOM):
        sums: dict[str, dict[str, list[float]]] = {}
        for cohort in FRESH:
            for seed in SEEDS:
                patients = Patients(evidence, cohort, encoder, seed)
                for features, pooling in REPRESENTATIONS:
                    x = patients.vectors(features, pooling)
                    cells = sums.setdefault(f"{features} {pooling}", {"few": [], "all": []})
                    for name, (_, metric) in parts.tasks().items():
                        problem = problems[cohort, name]
                        for number in SEEDS:
                            rows = subset_of(problem, FEW, number)
                            cells["few"].append(_value(problem, probe(problem, x, rows), metric))
                        rows = np.arange(len(problem.train))
                        cells["all"].append(_value(problem, probe(problem, x, rows), metric))
        for name, cells in sums.items():
            found.setdefault(name, {})[encoder] = {
                labels: round(float(np.mean(values)), 3) for labels, values in cells.items()
            }
    return found


def why(evidence: parts.Evidence) -> dict[str, Any]:
    """What the features of each encoder hold, on the first fresh cohort, mean over seeds.

    Shares of the variance of patch features that lie between places and between scans; and how much of what made
    each scan ridge regression on the patients' vectors explains in the test subjects (R2).
    """
    cohort = next(iter(FRESH))
    config = parts.recipe_of(cohort).phantom
    assert config is not None
    table = evidence.table(cohort).set_index("subject_id", drop=False)
    truth = encoded.truths(table, config)
    split, chosen = read_split(evidence.workspace(cohort)), evidence.representation(MAIN)
    found: dict[str, Any] = {}
    for encoder in (*parts.VARIANTS, RANDOM):
        runs = []
        for seed in SEEDS:
            if not evidence.features_file(cohort, encoder, seed).exists():
                continue
            patients = Patients(evidence, cohort, encoder, seed)
            features_SND = patients.vectors_SND[..., :FEATURES]
            place, scan = encoded.variance_shares(features_SND, np.ones(features_SND.shape[:2]))
            x = patients.vectors(chosen["features"], chosen["pooling"])
            train, test = ([s for s in side if s in x] for side in (split.train, split.test))
            held = {
                name: encoded.explained(
                    np.stack([x[s] for s in train]),
                    np.stack([x[s] for s in test]),
                    column.loc[train].to_numpy(float),
                    column.loc[test].to_numpy(float),
                )
                for name, column in truth.items()
            }
            runs.append({"place": place, "scan": scan, **held})
        if runs:
            found[encoder] = {name: round(float(np.mean([run[name] for run in runs])), 3) for name in runs[0]}
    return found


def _value(problem: LabelledCohort, predicted_T: np.ndarray, metric: str) -> float:
    return METRICS[metric].value(problem.test_targets, predicted_T)


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
