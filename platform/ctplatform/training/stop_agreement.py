"""Requests to stop a training run between two steps, and how its ranks agree on the step."""

from __future__ import annotations

import torch


class Interrupted(Exception):
    """A run stopped on request after `step` optimiser steps, with a checkpoint of that step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped on request after step {step}")
        self.step = step


class Agreement:
    """Ranks stop at one step if any of them has a request.

    Requests are combined while the next step is computed, by an operation of CPU tensors that never waits for a GPU; so
    a request takes effect one step after it was made.

    Args:
        world: number of ranks; more than one needs an initialised process group.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        self.group = None
        if world > 1 and torch.distributed.get_backend() != "gloo":
            self.group = torch.distributed.new_group(backend="gloo")
        self._work: torch.distributed.Work | None = None
        self._flag = torch.zeros(1, dtype=torch.int32)

    def reached(self, requested: bool) -> bool:
        """Whether all ranks stop now. A collective operation: every rank calls it after each step."""
        if self.world == 1:
            return requested
        reached = False
        if self._work is not None:
            self._work.wait()
            reached = bool(self._flag)
        self._flag = torch.tensor([int(requested)], dtype=torch.int32)
        self._work = torch.distributed.all_reduce(
            self._flag, torch.distributed.ReduceOp.MAX, group=self.group, async_op=True
        )
        return reached
