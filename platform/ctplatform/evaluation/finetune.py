"""End-to-end training of an encoder on a task's labels: from random weights (the from-scratch baseline) or fine-tuned
from pretrained ones.

A subject's score is a linear function of the mean feature over some of its locations. Every label fraction, and both
starts, get the same number of steps on the same batches, so that little data is not confounded with little training,
nor a good start with a long one.

Legend: L locations, S subjects (scans) of a batch, P features, D H W space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctplatform.config.evaluation import FinetuneConfig, ScratchConfig
from ctplatform.config.training import EncoderConfig
from ctplatform.evaluation.early_stopping import Choice, chosen_steps, fold_rows
from ctplatform.evaluation.objective import Objective
from ctplatform.evaluation.patch_pool import PatchPool, batches_of_rows
from ctplatform.metrics.scores import Targets
from ctplatform.tasks import Task
from ctplatform.tasks.fitted_head import FittedHead
from drasclr.encoder import FEATURES, Encoder
from drasclr.norm import recalibrate

RECALIBRATION_BATCHES = 8
MARKS = (1 / 3, 2 / 3, 1.0)  # of a fold's steps, where its left-out subjects are scored


class EndToEnd:
    """End-to-end training on one task's labels.

    From random weights the head starts at the best constant, and normalisation statistics are those of the batches,
    computed anew after training.

    From pretrained weights the head starts where the frozen probe ends (linear probing, then fine-tuning: Kumar et
    al., ICLR 2022, arXiv 2202.10054), so that without a step the prediction is the probe's. What lies between subjects
    is less than a hundredth of the variance of the features, so a step of the usual size would move what all subjects
    have in common much further than what tells them apart. Therefore the head reads features that are centred at each
    location over the subjects of the batch and divided by their spread over the labelled subjects; normalisation keeps
    the pretrained statistics; the learning rate falls from layer to layer towards the input; gradients are clipped;
    and the number of steps is chosen on labelled subjects that are left out (`early_stopping`).

    Args:
        task: what is predicted; its kind decides the loss (squared error, all-threshold, Cox's partial likelihood).
        encoder: architecture.
        config: learning rate, weight decay, batch.
        steps: optimiser steps; of fine-tuning, of all folds and the last run together.
        seed: weights, batches and folds.
        pretrained: start from a copy of these weights instead of random ones.
        tuning: how pretrained weights are fine-tuned.
        lr: instead of the configuration's.
        weight_decay: likewise.

    Fitted attributes: `losses_`, one a step; `choice_`, of fine-tuning, the number of steps and what it rests on;
    `out_of_fold_`, of fine-tuning, each labelled subject predicted by the model of a fold that left it out, after that
    number of steps; None where there are too few subjects for folds.
    """

    def __init__(
        self,
        task: Task,
        *,
        encoder: EncoderConfig,
        config: ScratchConfig,
        steps: int,
        seed: int,
        pretrained: Encoder | None = None,
        tuning: FinetuneConfig | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
    ) -> None:
        self.task, self.config, self.steps, self.seed = task, config, steps, seed
        self.tuning = tuning or FinetuneConfig()
        own = config if pretrained is None else self.tuning
        self.lr = own.lr if lr is None else lr
        self.weight_decay = own.weight_decay if weight_decay is None else weight_decay
        torch.manual_seed(seed)
        self.pretrained = pretrained
        self.encoder = Encoder(**encoder.model_dump()) if pretrained is None else copy.deepcopy(pretrained)
        self._architecture = encoder
        self.head = nn.Linear(FEATURES, 1)
        # Start at the best constant: few steps then never end far below it.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.losses_: list[float] = []
        self.choice_: Choice | None = None
        self.out_of_fold_: np.ndarray | None = None
        self._mean_LP = self._spread_P = torch.empty(0)

    def fit(
        self,
        pool: PatchPool,
        subjects: Sequence[str],
        targets: Targets,
        *,
        on_step: Callable[[int], None] | None = None,
    ) -> EndToEnd:
        """Train on these subjects' patches and labels.

        `on_step` is called with the number of steps done after each; predictions may be made from within it.
        """
        if self.pretrained is not None and self.steps:
            return self._fine_tune(pool, subjects, targets, on_step)
        for step in self.train(pool, subjects, targets):
            if on_step:
                on_step(step)
        return self

    def train(self, pool: PatchPool, subjects: Sequence[str], targets: Targets) -> Iterator[int]:
        """All steps, one at a time: yields the steps done. Nothing is validated here.

        A caller that stops iterating has an unfinished model.
        """
        yield from (step for step in self._steps(pool, subjects, targets, stop=self.steps) if step)

    def _steps(
        self, pool: PatchPool, subjects: Sequence[str], targets: Targets, *, stop: int
    ) -> Iterator[int]:
        """Yields 0 where training starts, then the steps done, up to `stop`; the schedule is that of all steps."""
        rng = np.random.default_rng(self.seed)
        self.objective = Objective(self.task, targets).to(pool.device)
        self.encoder.to(pool.device)
        self.head.to(pool.device)
        nn.init.constant_(self.head.bias, self.objective.start)
        if self.pretrained is not None:
            self._start_at_probe(pool, subjects, targets)
        optimizer = torch.optim.AdamW(
            self._parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.steps, 1))
        self.losses_ = []
        draws = batches_of_rows(rng, len(subjects), size=self.config.subjects_per_batch)
        self.encoder.eval()
        yield 0
        for step in range(1, stop + 1):
            self.encoder.train(self.pretrained is None)
            rows = next(draws)
            patches, coordinates = pool.draw([subjects[row] for row in rows], self.config.locations, rng)
            score_S = self._score(patches, coordinates)
            loss = self.objective(score_S, torch.from_numpy(rows).to(pool.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.pretrained is not None:
                trained = [p for group in optimizer.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(trained, self.tuning.clip_norm)
            optimizer.step()
            schedule.step()
            self.losses_.append(float(loss.detach()))
            yield step
        if self.pretrained is None:
            self.recalibrate(pool, subjects, rng)
        elif self.losses_:
            self._centre(pool, subjects)
        self.encoder.eval()

    def loss(
        self, pool: PatchPool, subjects: Sequence[str], targets: Targets, *, fitted_on: Sequence[str]
    ) -> float:
        """Mean loss of other subjects, validation subjects for example; also in the course of training."""
        losses_N = self.losses(pool, subjects, targets, fitted_on=fitted_on)
        return float(losses_N.mean()) if len(losses_N) else 0.0

    def losses(
        self, pool: PatchPool, subjects: Sequence[str], targets: Targets, *, fitted_on: Sequence[str]
    ) -> np.ndarray:
        """`Objective.losses_of` of other subjects; `fitted_on` are those whose statistics the model takes."""
        return self.objective.losses_of(self._held_out(pool, subjects, fitted_on), targets)

    def _held_out(self, pool: PatchPool, subjects: Sequence[str], fitted_on: Sequence[str]) -> np.ndarray:
        """Scores of other subjects in the course of training, [S]."""
        if self.pretrained is None:
            self.recalibrate(pool, fitted_on, np.random.default_rng([self.seed, len(self.losses_)]))
        elif self.losses_:
            self._centre(pool, fitted_on)
        return self._scores(pool, subjects)

    def fitted_head(self, pool: PatchPool, subjects: Sequence[str], targets: Targets) -> FittedHead:
        """The head as numbers, on the mean feature over the pool's locations; the subjects are those trained on."""
        weights_P = self.head.weight.detach().double().cpu().numpy()[0]
        bias = float(self.head.bias.detach())
        if self.pretrained is not None:
            weights_P = weights_P / self._spread_P.double().cpu().numpy()
            bias -= float(weights_P @ self._mean_LP.double().mean(0).cpu().numpy())
        score_N = self._scores(pool, subjects)
        return self.objective.fitted_head(weights_P, bias, score_N=score_N, targets=targets)

    def recalibrate(self, pool: PatchPool, subjects: Sequence[str], rng: np.random.Generator) -> None:
        """Normalisation statistics over batches that mix locations; fine-tuned encoders keep their own."""
        batches = pool.mixed_batches(
            subjects,
            self.config.locations,
            batches_of_rows(rng, len(subjects), size=self.config.subjects_per_batch),
            rng,
        )
        recalibrate(self.encoder, islice(batches, min(RECALIBRATION_BATCHES, self.steps)))

    def features(self, pool: PatchPool, subjects: Sequence[str]) -> np.ndarray:
        """Mean feature of each subject over all of the pool's locations and its scans, x_SP float64."""
        return np.asarray(pool.features(self.encoder, subjects).mean(1))

    def predict(self, pool: PatchPool, subjects: Sequence[str]) -> np.ndarray:
        """One prediction a subject, over all of the pool's locations and all of the subject's scans."""
        return self.objective.decode(self._scores(pool, subjects))

    def _fine_tune(
        self,
        pool: PatchPool,
        subjects: Sequence[str],
        targets: Targets,
        on_step: Callable[[int], None] | None,
    ) -> EndToEnd:
        """Choose the number of steps in folds, then train on all subjects; all steps together are `self.steps`."""
        rows = fold_rows(self.task, targets, count=self.tuning.folds, seed=self.seed)
        phase = max(1, self.steps // (len(rows) + 1))
        marks = sorted({max(1, round(phase * part)) for part in MARKS})
        done = 0
        out_of_fold: list[tuple[np.ndarray, np.ndarray]] = []

        def count(_: int) -> None:
            nonlocal done
            done += 1
            if on_step:
                on_step(done)

        def run(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
            model = self._like(phase)
            fitted_on, others = [subjects[row] for row in inside], [subjects[row] for row in outside]
            validated: list[np.ndarray] = []
            predicted: list[np.ndarray] = []
            for step in model._steps(pool, fitted_on, targets.take(inside), stop=phase):
                if step:
                    count(step)
                if step in (0, *marks):
                    score_S = model._held_out(pool, others, fitted_on)
                    validated.append(model.objective.losses_of(score_S, targets.take(outside)))
                    predicted.append(model.objective.decode(score_S))
                if step == phase:
                    break  # the end of training would only compute features again that are not used
            out_of_fold.append((outside, np.stack(predicted)))
            return np.stack(validated)

        self.choice_ = chosen_steps(run, rows, marks)
        if out_of_fold:
            mark = [0, *marks].index(self.choice_.steps)
            self.out_of_fold_ = np.empty(len(subjects))
            for outside, predicted_MS in out_of_fold:
                self.out_of_fold_[outside] = predicted_MS[mark]
        self.steps = phase
        for step in self._steps(pool, subjects, targets, stop=self.choice_.steps):
            if step:
                count(step)
        return self

    def _like(self, steps: int) -> EndToEnd:
        """An untrained model of the same settings."""
        return EndToEnd(
            self.task,
            encoder=self._architecture,
            config=self.config,
            steps=steps,
            seed=self.seed,
            pretrained=self.pretrained,
            tuning=self.tuning,
            lr=self.lr,
            weight_decay=self.weight_decay,
        )

    def _parameters(self) -> list[Any]:
        """Parameters of the optimiser; of a pretrained encoder, layer by layer with falling learning rates."""
        rest = [*self.head.parameters(), *self.objective.parameters()]
        if self.pretrained is None:
            return [*self.encoder.parameters(), *rest]
        layers = list(self.encoder.layers)
        return [{"params": rest}] + [
            {
                "params": list(layer.parameters()),
                "lr": self.lr * self.tuning.layer_decay ** (len(layers) - 1 - number),
            }
            for number, layer in enumerate(layers)
        ]

    def _scores(self, pool: PatchPool, subjects: Sequence[str]) -> np.ndarray:
        """One score a subject, [S] float64."""
        x_SLP = torch.from_numpy(pool.features(self.encoder, subjects))
        with torch.no_grad():
            if self.pretrained is None:
                x_SP = x_SLP.mean(1)
            else:
                x_SP = (x_SLP - self._mean_LP.double().cpu()).mean(1) / self._spread_P.double().cpu()
            return np.asarray(self.head(x_SP.to(self.head.weight)).squeeze(-1).double().cpu().numpy())

    def _centre(self, pool: PatchPool, subjects: Sequence[str]) -> np.ndarray:
        """Take the mean feature of these subjects at each location; returns their features x_SLP."""
        x_SLP = pool.features(self.encoder, subjects)
        self._mean_LP = torch.from_numpy(x_SLP.mean(0)).to(self.head.weight)
        return x_SLP

    def _start_at_probe(self, pool: PatchPool, subjects: Sequence[str], targets: Targets) -> None:
        x_SLP = self._centre(pool, subjects)
        x_SP = x_SLP.mean(1)
        spread_P = x_SP.std(0)
        spread_P = spread_P + 1e-3 * spread_P.mean() + 1e-6  # a constant feature must not be blown up
        self._spread_P = torch.from_numpy(spread_P).to(self.head.weight)
        probe = self.task.probe().fit(x_SP, targets, seed=self.seed)
        weights_P, bias = self.objective.adopt(probe)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weights_P * spread_P)[None])
            self.head.bias.fill_(bias + float(weights_P @ x_SP.mean(0)))

    def _score(self, patches_LSCDHW: Tensor, coordinates_L3: Tensor) -> Tensor:
        features_LSP = self.encoder.grouped(patches_LSCDHW, coordinates_L3)
        if self.pretrained is None:
            scores_S: Tensor = self.head(features_LSP.mean(0)).squeeze(-1)
            return scores_S
        # Over the batch, not over all subjects: what moves all of them alike then moves no score.
        centred_SP = (features_LSP - features_LSP.mean(1, keepdim=True)).mean(0)
        centred_scores_S: Tensor = self.head(centred_SP / self._spread_P).squeeze(-1)
        return centred_scores_S
