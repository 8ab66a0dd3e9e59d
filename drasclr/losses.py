"""Terms of the loss: InfoNCE, its decoupled form, and the variance of embeddings.

Legend: G locations, S scans, D features, M negatives.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from drasclr.gather import Gather
from drasclr.moments import EPS, check_scans, moments


def info_nce(positive_GS: Tensor, negative_GSM: Tensor, *, decoupled: bool = False) -> Tensor:
    """Loss of each scan, [G, S]: log(exp(p) + sum_m exp(n_m)) - p of logits (van den Oord et al. 2018).

    Without any negative it is 0, and nothing is learned from it.

    Args:
        positive_GS: logit of the positive.
        negative_GSM: logits of the negatives, -inf where one does not count.
        decoupled: leave the positive out of the sum (Yeh et al. 2022, arXiv 2110.06848). InfoNCE's gradient carries
            the factor 1 - softmax(p), which vanishes where the positive is far above the few negatives; this one
            does not.
    """
    first_GS = positive_GS
    if decoupled:
        # With the positive alone in the sum, the loss of a scan without negatives stays log(exp(p)) - p.
        first_GS = positive_GS.masked_fill((negative_GSM > -math.inf).any(-1), -math.inf)
    return torch.cat([first_GS[..., None], negative_GSM], dim=-1).logsumexp(-1) - positive_GS


def variance(embeddings_GSD: Tensor, gather: Gather | None = None) -> Tensor:
    """How much the spread of embeddings over the scans falls short at the locations; 0 where it is as wide as can be.

    The variance term of VICReg (Bardes et al. 2022, arXiv 2105.04906, equation 1), mean of max(0, 1 - std) over
    features and locations, with the unbiased variance. It is taken at each location, for spread between locations is no
    sign of spread between scans, and of L2-normalised embeddings times sqrt(D): the contrastive losses do not see the
    length of a projection, so that on projections the term would only lengthen them. Embeddings spread evenly over the
    sphere have std 1.

    Args:
        embeddings_GSD: L2-normalised embeddings of this worker's scans.
        gather: see `drasclr.moments.moments`.

    Raises:
        ValueError: there is one scan a location, over all workers.
    """
    found = moments(embeddings_GSD, gather)
    check_scans(found.count, "the variance term (variance_weight)")
    unbiased_GD = found.variance_GD * (found.count / (found.count - 1)) * embeddings_GSD.shape[-1]
    return F.relu(1 - torch.sqrt(unbiased_GD + EPS)).mean()
