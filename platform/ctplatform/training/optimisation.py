"""The optimiser's side of a training step: learning rate, momentum of the momentum encoder, gradient, update."""

from __future__ import annotations

import math

import torch

from ctplatform.config.training import PretrainConfig
from ctplatform.errors import StageError
from ctplatform.training.model import build_optimizer
from drasclr.contrast import DrasCLR
from drasclr.optimisation import momentum_at


class Optimisation:
    """Schedules and updates of a run, the same on all ranks.

    Args:
        model: its parameters are updated in place, and its momentum is set.
        config: the recipe's `pretrain` section.
        run: name of the run, for the error.
        total_steps: steps of the whole run; both cosines end there.

    Attributes:
        optimizer: torch's, whose state checkpoints hold. All else follows from the step.
    """

    def __init__(self, model: DrasCLR, config: PretrainConfig, *, run: str, total_steps: int) -> None:
        self.model, self.config, self.run, self.total_steps = model, config, run, total_steps
        self.optimizer = build_optimizer(model, config)
        self._unconfirmed: tuple[int, torch.Tensor, torch.cuda.Event] | None = None

    @property
    def lr(self) -> float:
        """Learning rate of the first group of parameters, as scheduled last."""
        return float(self.optimizer.param_groups[0]["lr"])

    def schedule(self, step: int) -> None:
        """Set learning rate and momentum for a step, counted from 0.

        The learning rate rises linearly over `warmup_steps` and then falls to 0 by a cosine. The momentum is
        constant, or a cosine to `momentum_end` (`drasclr.optimisation.momentum_at`).
        """
        warmup = self.config.warmup_steps
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            span = max(1, self.total_steps - warmup)
            factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / span))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor * group.get("lr_scale", 1.0)
        if self.config.momentum_end is not None:
            self.model.momentum = momentum_at(
                step, self.total_steps, start=self.config.momentum, end=self.config.momentum_end
            )

    def descend(self, loss: torch.Tensor, step: int) -> None:
        """Differentiate the loss and update the parameters.

        On a GPU the step's finiteness is read one step later (`confirm`), when it has long been copied to the host:
        the GPU always has the next step queued, and never waits for the check.

        Args:
            loss: a scalar with a gradient.
            step: counted from 0, for the error.

        Raises:
            StageError: the gradient is not finite, so that training has diverged; on a GPU, that of the step before.
        """
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        trained = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        # The gradient is that of all ranks, so all of them stop at the same step; a loss that is not finite has a
        # gradient that is not.
        if norm.is_cuda:
            self.confirm()
            finite = torch.empty((), dtype=torch.bool, pin_memory=True)
            finite.copy_(torch.isfinite(norm), non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._unconfirmed = (step, finite, copied)
        elif not torch.isfinite(norm):
            raise self.diverged(step + 1, "the gradient is not finite")
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, self.config.clip_norm, norm)
        self.optimizer.step()

    def confirm(self) -> None:
        """Wait until the last step is known to be finite; called before anything of it is logged or stored.

        Raises:
            StageError: it is not.
        """
        if self._unconfirmed is None:
            return
        step, finite, copied = self._unconfirmed
        self._unconfirmed = None
        copied.synchronize()
        if not finite:
            raise self.diverged(step + 1, "the gradient is not finite")

    def diverged(self, step: int, problem: str) -> StageError:
        """The error of a run that has diverged at a step, counted from 1."""
        return StageError(
            f"pretraining of run {self.run} diverged at step {step}: {problem}",
            f"Lower pretrain.lr (it is {self.config.lr:g}), raise pretrain.warmup_steps, or set "
            "pretrain.clip_norm; the checkpoint before that step is kept",
            code="diverged",
        )
