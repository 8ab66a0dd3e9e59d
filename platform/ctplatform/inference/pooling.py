"""From the vectors of a scan's patches to the vector of a patient.

Features of an encoder differ far more between places of the lung than between people, so a mean over locations is
mostly what all people have in common. Standardised at each location over the scans that were trained on, every location
counts alike. The spread over locations of what places do not explain distinguishes patchy from even disease, the
gradient from base to apex disease of the upper from disease of the lower zones.

Legend: S scans, N locations, D features of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

MIN_INSIDE = 0.5  # patches with a smaller part inside the scan are left out of the scan's vector
LEAST_SPREAD = (
    0.1  # of the median of a feature's spreads over locations: a constant feature must not be blown up
)

LEAST_HEIGHT = (
    0.25  # of the variance of all locations' heights: a scan of few slices must not blow its gradient up
)

Pooling = Literal["mean", "mean_std", "standardised", "standardised_spread", "standardised_gradient"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
#: Those that need the statistics of the scans that were trained on.
STANDARDISED: tuple[Pooling, ...] = ("standardised", "standardised_spread", "standardised_gradient")


@dataclass(frozen=True)
class LocationStatistics:
    """Mean and standard deviation of each feature at each location over scans, [N, D] each."""

    mean_ND: np.ndarray
    spread_ND: np.ndarray

    @classmethod
    def of(cls, vectors_SND: np.ndarray, inside_SN: np.ndarray) -> LocationStatistics:
        """Statistics of some scans, at each location of those that hold it (of all, where none does)."""
        found = cls.over([(vectors_SND, inside_SN)])
        assert found is not None
        return found

    @classmethod
    def over(cls, groups: Iterable[tuple[np.ndarray, np.ndarray]]) -> LocationStatistics | None:
        """The same of groups of scans, read one after the other; None without any.

        Sums are of the differences from the first group's mean, so that a spread far below the mean is kept.
        """
        origin_ND: np.ndarray | None = None
        for vectors_SND, inside_SN in groups:
            if origin_ND is None:
                origin_ND = vectors_SND.mean(0, dtype=np.float64)
                # Row 0 sums over the scans that hold a location, row 1 over all.
                count_2N = np.zeros((2, len(origin_ND)))
                sum_2ND, square_2ND = np.zeros((2, *origin_ND.shape)), np.zeros((2, *origin_ND.shape))
            centred_SND = vectors_SND - origin_ND
            for row, keep_SN in enumerate((inside_SN >= MIN_INSIDE, np.ones(inside_SN.shape, bool))):
                count_2N[row] += keep_SN.sum(0)
                sum_2ND[row] += np.einsum("snd,sn->nd", centred_SND, keep_SN)
                square_2ND[row] += np.einsum("snd,sn->nd", np.square(centred_SND), keep_SN)
        if origin_ND is None:
            return None
        row_N, every_N = (count_2N[0] == 0).astype(int), np.arange(len(origin_ND))
        count_N1 = count_2N[row_N, every_N][:, None]
        mean_ND = sum_2ND[row_N, every_N] / count_N1
        variance_ND = np.maximum(square_2ND[row_N, every_N] / count_N1 - np.square(mean_ND), 0)
        return cls((origin_ND + mean_ND).astype(np.float32), np.sqrt(variance_ND).astype(np.float32))

    def standardise(self, vectors_SND: np.ndarray) -> np.ndarray:
        """Vectors with mean 0 and standard deviation 1 at each location over the scans that the statistics are of."""
        least_D = LEAST_SPREAD * np.median(self.spread_ND, axis=0) + 1e-6
        scaled: np.ndarray = (vectors_SND - self.mean_ND) / np.maximum(self.spread_ND, least_D)
        return scaled


def pool(
    vectors_SND: np.ndarray,
    inside_SN: np.ndarray,
    pooling: Pooling,
    statistics: LocationStatistics | None = None,
    centres_mm_N3: np.ndarray | None = None,
) -> np.ndarray:
    """One vector a scan, float32, over the locations of which `MIN_INSIDE` lies inside it (over all, if none does).

    Args:
        vectors_SND: vectors of N locations in S scans.
        inside_SN: part of each patch inside its scan, 0 to 1.
        pooling: "mean" [S, D]; "mean_std" [S, 2 D], mean and standard deviation over locations; "standardised" [S, D],
            mean of the vectors standardised at each location; "standardised_spread" [S, 2 D], that mean, and the
            standard deviation over locations of what is left of the vectors after each location's mean;
            "standardised_gradient" [S, 3 D], these two, and the gradient of the standardised vectors from base to apex
            (`height_weights`).
        statistics: of the scans that were trained on; needed by the standardised ones.
        centres_mm_N3: where the locations lie in the atlas, LPS mm (`Atlas.centres_mm_N3`); needed by
            "standardised_gradient".

    Raises:
        ValueError: statistics or centres are needed and missing.
    """
    keep_SN = inside_SN >= MIN_INSIDE
    keep_SN = keep_SN | ~keep_SN.any(1, keepdims=True)
    weights_SN1 = (keep_SN / keep_SN.sum(1, keepdims=True))[:, :, None]

    def mean(x_SND: np.ndarray) -> np.ndarray:
        result: np.ndarray = (x_SND * weights_SN1).sum(1)
        return result

    def deviation(x_SND: np.ndarray) -> np.ndarray:
        return np.asarray(np.sqrt(mean(np.square(x_SND - mean(x_SND)[:, None]))))

    if pooling not in STANDARDISED:
        parts = [mean(vectors_SND)]
        if pooling == "mean_std":
            parts.append(deviation(vectors_SND))
    else:
        if statistics is None:
            raise ValueError(f"pooling {pooling!r} needs the statistics of the scans that were trained on")
        standardised_SND = statistics.standardise(vectors_SND)
        parts = [mean(standardised_SND)]
        if pooling != "standardised":
            parts.append(deviation(vectors_SND - statistics.mean_ND))
        if pooling == "standardised_gradient":
            if centres_mm_N3 is None:
                raise ValueError(f"pooling {pooling!r} needs the places of the locations in the atlas")
            heights_SN = height_weights(keep_SN, centres_mm_N3[:, 2])
            parts.append((standardised_SND * heights_SN[:, :, None]).sum(1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def height_weights(keep_SN: np.ndarray, height_N: np.ndarray) -> np.ndarray:
    """Weights of locations whose weighted sum is a gradient from base to apex, [S, N].

    The gradient is the slope of the least-squares line through a feature's values over height, in units of the standard
    deviation of all locations' heights. Where the kept locations span little of the height, `LEAST_HEIGHT` stands for
    the variance of theirs, which draws the slope towards 0, the value of an average scan; it is 0 where they all have
    one height.

    Args:
        keep_SN: locations that count; at least one a scan.
        height_N: of all locations, upwards.
    """
    count_S1 = keep_SN.sum(1, keepdims=True)
    relative_N = (height_N - height_N.mean()) / max(height_N.std(), 1e-9)
    above_SN = keep_SN * (relative_N - (keep_SN * relative_N).sum(1, keepdims=True) / count_S1)
    variance_S1 = np.square(above_SN).mean(1, where=keep_SN, keepdims=True)
    return np.asarray(above_SN / (count_S1 * np.maximum(variance_S1, LEAST_HEIGHT)))
