"""Cosines are of centred vectors; of each other subject only the most similar scan counts."""

from __future__ import annotations

import numpy as np

from ctplatform.inference.similarity import most_similar, similarities, similarity_to


def test_what_all_vectors_have_in_common_does_not_count():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 5)) + 1000
    found = similarities(vectors)
    np.testing.assert_allclose(np.diag(found), 1)
    assert found.min() < -0.5
    np.testing.assert_allclose(found, similarities(vectors - 1000), atol=1e-9)
    np.testing.assert_allclose(similarity_to(vectors[3], vectors), found[3], atol=1e-9)


def test_equal_vectors_have_similarity_0():
    assert similarities(np.ones((3, 2))).tolist() == np.zeros((3, 3)).tolist()


def test_one_scan_a_subject_and_none_of_the_own():
    similarity = np.array([1.0, 0.9, np.nan, 0.8, 0.7, 0.6])
    subjects = np.array(["a", "a", "b", "b", "c", "c"])
    assert most_similar(similarity, subjects, subject="a", count=5) == [3, 4]
    assert most_similar(similarity, subjects, subject=None, count=2) == [0, 3]
    assert most_similar(similarity[:2], subjects[:2], subject="a", count=2) == []
