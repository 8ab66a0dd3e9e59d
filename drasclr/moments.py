"""Mean and variance over the scans of a batch at each location, and normalisation by them.

Legend: G locations, S scans of this worker, T scans of all workers, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from drasclr.gather import Gather

# Added to a variance before its root is taken. Directions in which the scans of a batch differ by less than 0.01 are
# scaled up by 100 at most, so that rounding is not taken for a difference between scans.
EPS = 1e-4


@dataclass(frozen=True)
class Moments:
    """Statistics over the T scans of a batch.

    Attributes:
        mean_GD: mean at each location.
        variance_GD: biased variance at each location (divided by T).
        count: T.
    """

    mean_GD: Tensor
    variance_GD: Tensor
    count: int


def moments(values_GSD: Tensor, gather: Gather | None = None) -> Moments:
    """Mean and variance over the scans, with gradients.

    Args:
        values_GSD: values of this worker's scans.
        gather: collects those of the other workers where they have other scans of the same locations; a collective,
            forward and backward. Gradients of a sum of losses over all workers are exact: each worker gets what the
            losses of the others add to its values.
    """
    count = values_GSD.shape[1]
    mean_GD = values_GSD.sum(1) / max(count, 1)
    squares_GD = (values_GSD - mean_GD[:, None]).square().sum(1)
    if gather is None or gather.world == 1:
        return Moments(mean_GD, squares_GD / max(count, 1), count)
    # Partial sums about the mean of each worker are merged (Chan, Golub, LeVeque 1979): a sum of squares about 0 would
    # lose the variance between scans, which is far below the square of their mean.
    mean_WGD, squares_WGD = gather.stack(torch.stack([mean_GD, squares_GD])).unbind(1)
    count_W = mean_WGD.new_tensor(gather.counts)[:, None, None]
    grand_GD = (count_W * mean_WGD).sum(0) / gather.total
    squares_GD = (squares_WGD + count_W * (mean_WGD - grand_GD).square()).sum(0)
    return Moments(grand_GD, squares_GD / gather.total, gather.total)


def standardise(values_GSD: Tensor, gather: Gather | None = None) -> Tensor:
    """Values with mean 0 and variance 1 over the scans of the batch at each location: batch normalisation a location.

    (x - mean) / sqrt(variance + EPS), with the biased variance, as in batch normalisation, and nothing learned. At two
    scans the results are opposite to each other.

    Args:
        values_GSD: values of this worker's scans.
        gather: see `moments`.

    Raises:
        ValueError: there is one scan a location, over all workers.
    """
    found = moments(values_GSD, gather)
    check_scans(found.count, "normalisation of projections by location (location_norm)")
    return (values_GSD - found.mean_GD[:, None]) * torch.rsqrt(found.variance_GD + EPS)[:, None]


def check_scans(count: int, option: str) -> None:
    """Statistics over scans need two of them.

    Raises:
        ValueError: there are fewer.
    """
    if count < 2:
        raise ValueError(
            f"{option} needs at least 2 scans a location in a batch of all workers, got {count}; "
            "raise scans_per_batch, or switch the option off"
        )
