"""Which scans are alike: cosines of centred vectors, and the most similar other subjects."""

from __future__ import annotations

import numpy as np


def similarities(vectors_ND: np.ndarray) -> np.ndarray:
    """Cosines of the vectors, centred on their mean: otherwise what all lungs have in common would dominate."""
    centred_ND = unit_centred(vectors_ND)
    similarity_NN: np.ndarray = centred_ND @ centred_ND.T
    return similarity_NN


def unit_centred(vectors_ND: np.ndarray) -> np.ndarray:
    """The vectors less their mean, each of length 1 (or 0), float64."""
    return _unit(vectors_ND.astype(np.float64) - vectors_ND.mean(0, dtype=np.float64))


def similarity_to(vector_D: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """Cosines of one vector with others, all centred on the mean of the others, float64 [N]."""
    mean_D = vectors_ND.mean(0, dtype=np.float64)
    similarity_N: np.ndarray = _unit(vectors_ND - mean_D) @ _unit((vector_D - mean_D)[None])[0]
    return similarity_N


def most_similar(
    similarity_N: np.ndarray, subjects_N: np.ndarray, *, subject: str | None, count: int
) -> list[int]:
    """Positions of the most similar scans of other subjects, one scan a subject, most similar first.

    Args:
        similarity_N: to the scan that neighbours are of; NaN for scans that are left out.
        subjects_N: of each scan.
        subject: of the scan itself; None if it is of none of these.
        count: at most so many.
    """
    seen, picked = {subject}, []
    for other in np.argsort(-similarity_N, kind="stable"):
        if subjects_N[other] not in seen and not np.isnan(similarity_N[other]):
            seen.add(subjects_N[other])
            picked.append(int(other))
        if len(picked) == count:
            break
    return picked


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
    return scaled
