"""The loss of end-to-end training: what one score a subject costs, by the kind of label, and what it means."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ctplatform.metrics.scores import Targets
from ctplatform.tasks.fitted_head import FittedHead
from ctplatform.tasks.heads import Cumulative, Probe
from ctplatform.tasks.survival import breslow
from ctplatform.tasks.task import Task

HIGHEST = 8.0  # log of the largest count that is predicted


class Objective(nn.Module):
    """Loss of one score a subject, and what a score means.

    regression: squared error of the standardised label. ordinal, binary: all-threshold logistic loss with learned
    thresholds, as the frozen heads' (`ctplatform.tasks.heads.Cumulative`). survival: Cox's partial likelihood within
    the batch, ties as Breslow. count: Poisson's log-likelihood of exp(score).
    """

    def __init__(self, task: Task, targets: Targets) -> None:
        super().__init__()
        self.task = task
        value = torch.from_numpy(targets.value_N.astype(np.float32))
        self.mean, self.spread = float(value.mean()), float(value.std(correction=0)) or 1.0
        #: The score of everybody before anything is learned: the best constant.
        self.start = 0.0
        self.value_N: Tensor
        self.event_N: Tensor
        if task.kind == "regression":
            self.register_buffer("value_N", (value - self.mean) / self.spread)
        elif task.kind == "survival":
            assert targets.event_N is not None
            self.register_buffer("value_N", value)
            self.register_buffer("event_N", torch.from_numpy(targets.event_N))
        elif task.kind == "count":
            self.start = float(np.log(max(self.mean, 1e-3)))
            self.register_buffer("value_N", value)
        else:
            self.classes, level_N = np.unique(targets.value_N, return_inverse=True)
            self.register_buffer("value_N", torch.from_numpy(level_N))
            above = (level_N[:, None] > np.arange(len(self.classes) - 1)).mean(0)
            self.thresholds = nn.Parameter(torch.from_numpy(-np.log(above / (1 - above))).float())

    def forward(self, score_S: Tensor, rows_S: Tensor) -> Tensor:
        """Mean loss of the batch whose subjects are at `rows_S` of the training targets."""
        event_S = self.event_N[rows_S] if self.task.kind == "survival" else None
        return self._loss(score_S, self.value_N[rows_S], event_S)

    def losses_of(self, score_N: np.ndarray, targets: Targets) -> np.ndarray:
        """The loss of each of other subjects, of a validation set for example.

        Returns:
            [N], one a subject; survival: one for each subject with an event, compared with all of these subjects that
            are at risk then; empty without events.
        """
        score, event = torch.from_numpy(score_N).float(), None
        value = torch.from_numpy(targets.value_N.astype(np.float32))
        if self.task.kind == "regression":
            value = (value - self.mean) / self.spread
        elif self.task.kind == "survival":
            event = torch.from_numpy(np.asarray(targets.event_N))
        elif self.task.kind != "count":  # a class that was not trained on counts as the next one below
            level_N = np.searchsorted(self.classes, targets.value_N, side="right") - 1
            value = torch.from_numpy(np.maximum(level_N, 0))
        device = self.value_N.device
        with torch.no_grad():
            losses = self._losses(
                score.to(device), value.to(device), None if event is None else event.to(device)
            )
        if losses.ndim == 2:
            losses = losses.mean(1)
        found = losses.cpu().numpy().astype(float)
        return found if targets.event_N is None else found[np.asarray(targets.event_N, bool)]

    def loss_of(self, score_N: np.ndarray, targets: Targets) -> float:
        """Mean of `losses_of`; zero for survival without events."""
        losses = self.losses_of(score_N, targets)
        return float(losses.mean()) if len(losses) else 0.0

    def _loss(self, score_S: Tensor, value_S: Tensor, event_S: Tensor | None) -> Tensor:
        losses = self._losses(score_S, value_S, event_S)
        if event_S is not None:
            # A batch without an event teaches nothing; its loss is zero, not undefined.
            return losses.sum() / event_S.sum().clamp(min=1)
        return losses.mean()

    def _losses(self, score_S: Tensor, value_S: Tensor, event_S: Tensor | None) -> Tensor:
        """[S], or [S, T] with a term for each threshold; survival: zero without an event."""
        if self.task.kind == "regression":
            return (score_S - value_S).square()
        if self.task.kind == "count":
            return nn.functional.poisson_nll_loss(score_S.clamp(max=HIGHEST), value_S, reduction="none")
        if event_S is not None:
            at_risk_SS = value_S[None, :] >= value_S[:, None]
            log_risk_S = score_S[None, :].masked_fill(~at_risk_SS, -torch.inf).logsumexp(1)
            return (log_risk_S - score_S) * event_S
        above_ST = value_S[:, None] > torch.arange(len(self.classes) - 1, device=value_S.device)
        margin_ST = score_S[:, None] - self.thresholds
        return nn.functional.binary_cross_entropy_with_logits(margin_ST, above_ST.float(), reduction="none")

    def adopt(self, probe: Probe) -> tuple[np.ndarray, float]:
        """Weights [P] and bias of a score that means what the probe's means; its thresholds become the loss's."""
        weights_P, bias = probe.linear()
        if self.task.kind == "regression":
            return weights_P / self.spread, (bias - self.mean) / self.spread
        if self.task.kind not in ("survival", "count"):
            assert isinstance(probe, Cumulative)
            with torch.no_grad():
                self.thresholds.copy_(torch.from_numpy(probe.thresholds_))
        return weights_P, bias

    def fitted_head(
        self, weights_P: np.ndarray, bias: float, *, score_N: np.ndarray, targets: Targets
    ) -> FittedHead:
        """A linear score with what it means, to be stored; the inverse of `adopt`.

        Args:
            weights_P: of the score.
            bias: of the score.
            score_N: of the training subjects.
            targets: theirs.
        """
        kind = self.task.kind
        if kind == "regression":
            weights_P, bias = weights_P * self.spread, bias * self.spread + self.mean
            return FittedHead(kind, weights_P, bias, self.task.valid)
        if kind == "survival":
            times_T, hazard_T = breslow(score_N, targets)
            return FittedHead(kind, weights_P, bias, self.task.valid, times_T=times_T, hazard_T=hazard_T)
        if kind == "count":
            return FittedHead(kind, weights_P, bias, self.task.valid)
        thresholds_T = np.sort(self.thresholds.detach().cpu().numpy()).astype(float)
        classes_C = np.asarray(self.classes, float)
        return FittedHead(
            kind, weights_P, bias, self.task.valid, thresholds_T=thresholds_T, classes_C=classes_C
        )

    def decode(self, score_N: np.ndarray) -> np.ndarray:
        """Scores to predictions: the label's unit, the class, the probability, or the log hazard."""
        if self.task.kind == "regression":
            return self.task.clip(score_N * self.spread + self.mean)
        if self.task.kind == "survival":
            return score_N
        if self.task.kind == "count":
            return np.asarray(np.exp(np.minimum(score_N, HIGHEST)))
        thresholds = np.sort(self.thresholds.detach().cpu().numpy())
        if self.task.kind == "binary":
            return np.asarray(1 / (1 + np.exp(thresholds[0] - score_N)))
        return np.asarray(self.classes[(score_N[:, None] > thresholds).sum(1)].astype(float))
