"""Neighbours are the most similar other subjects, and similar where vectors carry the measure."""

from __future__ import annotations

import numpy as np

from ctplatform.inference.similarity import similarities
from ctplatform.report.sections import nearest


def test_neighbours_are_the_nearest_other_subjects():
    angles = np.array([0, 1, 2, 4, 8, 16, 90, 180, 270.0])
    vectors = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)
    unit = vectors @ vectors.T
    subjects = np.array(["a", "a", "b", "b", "c", "d", "e", "f", "g"])
    picked = nearest.neighbours(unit, subjects)
    assert picked[0].tolist() == [2, 4, 5, 6]  # not the subject's other scan, and one scan of b only
    assert all(subjects[i] not in subjects[row] for i, row in enumerate(picked))


def test_neighbours_differ_less_where_the_vectors_carry_the_measure():
    rng = np.random.default_rng(0)
    laa = rng.uniform(0, 0.4, 60)
    subjects = np.arange(60).astype(str)
    informative = np.stack([laa, rng.normal(0, 0.01, 60)], axis=1)
    for vectors, closer in ((informative, True), (rng.normal(size=(60, 8)), False)):
        order = nearest.neighbours(similarities(vectors), subjects)
        near, far = nearest.differences(laa, order)
        assert (near[2] < far[1]) == closer
        assert near[1] <= near[0] <= near[2]
