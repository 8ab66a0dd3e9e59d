"""Heads on frozen representations, as part of the evidence: the choice of a representation, and predictions with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks import evidence_scores as scores
from tests.benchmarks.evidence_parts import (
    ALL,
    BEST_RANDOM,
    DENSITY,
    DEVELOPMENT,
    FEW,
    HISTOGRAM,
    LABEL_COUNTS,
    MAIN,
    RANDOM,
    SAME_PLACES,
    SEEDS,
    SUBSETS,
    Evidence,
    harder,
    recipe_of,
    tasks,
    write_result,
)


def trained_places(locations: int, size: int) -> np.ndarray:
    """The places that training on labels reads, as `PatchPool` picks them."""
    return np.unique(np.linspace(0, locations - 1, min(size, locations)).round().astype(int))


def choose(evidence: Evidence) -> None:
    """Choose features and pooling among the development cohort's training subjects.

    A candidate's score is the mean, over tasks and pretraining seeds, of cross-validation with all labels and of
    heads fitted on `FEW` of them. The choice is the pretrained encoder's, and holds for every encoder; the random
    encoder's own is made in the same way, as one more baseline.
    """
    problems = {
        name: (scores.problem_of(evidence, DEVELOPMENT, task), metric)
        for name, (task, metric) in tasks().items()
    }
    chosen: dict[str, dict[str, Any]] = {}
    for encoder in (MAIN, RANDOM):
        by_candidate: dict[str, dict[str, list[float]]] = {}
        for seed in SEEDS:
            patients = scores.Patients(evidence, DEVELOPMENT, encoder, seed)
            for features, pooling in scores.REPRESENTATIONS:
                x = patients.vectors(features, pooling)
                found = by_candidate.setdefault(f"{features} {pooling}", {})
                for name, (problem, metric) in problems.items():
                    found.setdefault(name, []).append(scores.validated(problem, x, metric, labels=FEW))
        means = {
            name: float(np.mean([v for values in by_task.values() for v in values]))
            for name, by_task in by_candidate.items()
        }
        features, pooling = max(means, key=lambda name: means[name]).split()
        chosen[encoder] = {"features": features, "pooling": pooling, "means": means, "scores": by_candidate}
    write_result(evidence.representation_file(), chosen)


def probe(evidence: Evidence, cohort: str, encoder: str, seed: int) -> None:
    """Fit heads on a frozen representation: label subsets at several sizes, then all labels."""
    if encoder == DENSITY:
        x = scores.density(evidence, cohort)
    elif encoder == HISTOGRAM:
        x = scores.histogram(evidence, cohort)
    else:
        chosen = evidence.representation(encoder)
        patients = scores.Patients(evidence, cohort, RANDOM if encoder == BEST_RANDOM else encoder, seed)
        x = patients.vectors(chosen["features"], chosen["pooling"])
    found: dict[str, dict[str, list[list[float]]]] = {}
    for name, (task, _) in (tasks() | harder()).items():
        problem = scores.problem_of(evidence, cohort, task)
        for labels in LABEL_COUNTS if encoder == MAIN else (FEW, ALL):
            count = SUBSETS if labels == FEW else len(SEEDS)
            if labels >= len(problem.train):
                count = 1
            predictions = [
                scores.probe(problem, x, scores.subset_of(problem, labels, number)) for number in range(count)
            ]
            found.setdefault(name, {})[str(labels)] = [p.astype(float).tolist() for p in predictions]
    if encoder == MAIN:
        # On the places that training on labels reads, for a comparison with it.
        places = trained_places(patients.vectors_SND.shape[1], recipe_of(cohort).sweep.scratch.pool)
        x = patients.vectors(chosen["features"], chosen["pooling"], places=places)
        for name, (task, _) in tasks().items():
            problem = scores.problem_of(evidence, cohort, task)
            predicted = [scores.probe(problem, x, scores.subset_of(problem, FEW, n)) for n in SEEDS]
            found[name][SAME_PLACES] = [p.astype(float).tolist() for p in predicted]
    write_result(evidence.probed_file(cohort, encoder, seed), found)
