"""The encoder of a run with the best score of the online probe, and when to stop looking for a better one.

With `pretrain.best_by: probe` it is what the run publishes, in place of the last one. Its state is part of every
checkpoint, so that a resumed run selects and stops as one that was not interrupted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

#: Key of a checkpoint's state.
STATE = "selection"


class Selection:
    """The best of the encoders that were offered; of equally good ones the first.

    Args:
        patience: probes in a row without a better score after which the run stops; None: never.

    Attributes:
        step: of the best encoder; 0 before there is one.
        score: its score.
        probes: scores so far.
        since: of them, those after the best one.
        weights: state of the best encoder, on the CPU; only on the rank that probes.
    """

    def __init__(self, *, patience: int | None) -> None:
        self.patience = patience
        self.step, self.score = 0, math.nan
        self.probes = self.since = 0
        self.weights: dict[str, torch.Tensor] = {}

    @property
    def exhausted(self) -> bool:
        """Whether the run stops here."""
        return self.patience is not None and self.since >= self.patience

    def offer(self, step: int, score: float, encoder: torch.nn.Module, *, higher_is_better: bool) -> bool:
        """Count a score, and copy the encoder's state where it is the best so far; returns whether it is.

        A score that is undefined (nan) counts as no better one.
        """
        self.probes += 1
        sign = 1 if higher_is_better else -1
        better = math.isfinite(score) and (not self.step or sign * score > sign * self.score)
        if not better:
            self.since += 1
            return False
        self.step, self.score, self.since = step, score, 0
        self.weights = {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}
        return True

    def share(self, *, rank: int, device: torch.device) -> None:
        """Rank 0's counts on all ranks, so that all stop at the same step. A collective operation."""
        import torch

        counts = torch.tensor([self.step, self.probes, self.since], device=device)
        torch.distributed.broadcast(counts, src=0)
        if rank > 0:
            self.step, self.probes, self.since = counts.tolist()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        names = ("step", "score", "probes", "since", "weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's."""
        for name, value in state.items():
            setattr(self, name, value)
