"""Heads on frozen representations, as part of the evidence: the choice of a representation, and predictions with it."""

from __future__ import annotations

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
        (DEVELOPMENT, name): (scores.problem_of(evidence, DEVELOPMENT, task), metric)
        for name, (task, metric) in tasks().items()
    }
    chosen = {
        encoder: scores.choice(evidence, encoder, problems, scores.REPRESENTATIONS)
        for encoder in (MAIN, RANDOM)
    }
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
