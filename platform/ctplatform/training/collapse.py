"""Signs of a collapsed representation, from the lines that a run logs: what they say, and which settings to change.

A representation collapses when its embeddings fill few directions and no longer tell scans apart; the losses alone do
not show it. The limits are between runs that collapsed and runs that did not (docs/decisions/0024-training-notices.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctplatform.config.training import PretrainConfig

#: Logged lines whose median counts: single batches differ.
WINDOW = 5
#: With fewer embeddings than this, a worker's batch says little of its rank.
MIN_EMBEDDINGS = 8
#: Relative rank below which embeddings fill few directions.
LOW_RANK = 0.6
#: Uniformity above which embeddings of different scans lie close together.
HIGH_UNIFORMITY = -0.5
#: Uniformity above which all embeddings of a location are one point; of such a point the rank is that of rounding.
ONE_POINT = -0.1
#: Top-1 less its chance level, below which views are hardly matched.
LOW_TOP1 = 0.1
#: Normalised entropy of the routing below which one expert does nearly all.
LOW_ENTROPY = 0.2


def relative_rank(rank: float, *, embeddings: int, features: int) -> float:
    """Effective rank relative to the largest that the batch allows: log(rank) / log(limit), between 0 and 1.

    It is the entropy of the normalised singular values (Roy and Vetterli 2007) over that of equal ones.

    Args:
        rank: effective rank of the centred embeddings.
        embeddings: their number.
        features: their dimension.

    Returns:
        nan with fewer than `MIN_EMBEDDINGS` embeddings.
    """
    if embeddings < MIN_EMBEDDINGS or not rank > 0:
        return math.nan
    return min(1.0, math.log(rank) / math.log(min(embeddings - 1, features)))


@dataclass(frozen=True)
class Signs:
    """Medians of the newest logged lines; nan where a line lacks a measure.

    Attributes:
        step: of the newest line.
        rank: effective rank of a worker's batch.
        relative: `relative_rank`.
        uniformity: 0 is one point; with `location_norm`, measured after the normalisation.
        top1: share of patches whose own second view is nearer than all negatives.
        chance: top-1 of an encoder that has learnt nothing.
        entropy: of the routing; 1 is even use of all experts.
    """

    step: int
    rank: float
    relative: float
    uniformity: float
    top1: float
    chance: float
    entropy: float

    @property
    def one_expert(self) -> bool:
        """Nearly all locations are left to a single expert."""
        return self.entropy < LOW_ENTROPY

    @property
    def collapsed(self) -> bool:
        """Few directions, and scans that lie close together or are not told apart; or one point; or one expert."""
        close = self.uniformity > HIGH_UNIFORMITY or self.top1 - self.chance < LOW_TOP1
        return (self.relative < LOW_RANK and close) or self.uniformity > ONE_POINT or self.one_expert

    def text(self) -> str:
        """The measures, for people."""
        parts = [f"effective rank {self.rank:.1f}"]
        if math.isfinite(self.relative):
            parts[0] += f" ({self.relative:.0%} of the batch's on a log scale)"
        if math.isfinite(self.uniformity):
            parts.append(f"uniformity {self.uniformity:.2f}")
        if math.isfinite(self.top1):
            parts.append(f"top-1 {self.top1:.0%} (chance {self.chance:.0%})")
        if math.isfinite(self.entropy):
            parts.append(f"expert entropy {self.entropy:.2f}")
        return ", ".join(parts)


def signs(lines: Sequence[Mapping[str, Any]], *, window: int = WINDOW) -> Signs | None:
    """Signs at the end of some logged lines, oldest first; None before there are `window` of them with a rank."""
    recent = [line for line in lines if _number(line, "effective_rank") is not None][-window:]
    if len(recent) < window:
        return None

    def median(name: str) -> float:
        values = [value for line in recent if (value := _number(line, name)) is not None]
        return float(np.median(values)) if values else math.nan

    negatives = median("negatives")
    return Signs(
        step=int(recent[-1]["step"]),
        rank=median("effective_rank"),
        relative=median("relative_rank"),
        uniformity=median("uniformity"),
        top1=median("top1"),
        chance=1 / (1 + negatives),
        entropy=median("expert_entropy"),
    )


def message(found: Signs, config: PretrainConfig) -> str:
    """What is seen and what to change, in two sentences without the last full stop."""
    return f"{problem(found)}. {remedy(found, config)}"


def problem(found: Signs) -> str:
    """What is seen."""
    what = "one expert serves nearly all locations" if found.one_expert else "the representation collapses"
    return f"{what} at step {found.step}: {found.text()}"


def remedy(found: Signs, config: PretrainConfig) -> str:
    """Settings to change, the most promising first."""
    if found.one_expert:
        return "Lower pretrain.routing_lr and pretrain.routing_gain"
    views, changes = config.augmentation, []
    if config.augment and views.translation > 4:
        changes.append("pretrain.augmentation.translation=4")
    if config.augment and views.gamma_probability > 0:
        changes.append("pretrain.augmentation.gamma_probability=0")
    if not config.location_norm:
        changes.append("pretrain.location_norm=true")
    if changes:
        return f"Set {', '.join(changes)}"
    return "Lower pretrain.lr, raise pretrain.scans_per_batch, or set pretrain.variance_weight"


def _number(line: Mapping[str, Any], name: str) -> float | None:
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
