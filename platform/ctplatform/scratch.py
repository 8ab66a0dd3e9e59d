"""The from-scratch baseline: the same encoder, from random weights, trained end to end on the labels.

A subject's score is a linear function of the mean feature over some of its locations. Every label fraction gets the
same number of steps, so that little data is not confounded with little training.

Legend: L locations, S subjects (scans) of a batch, D H W space.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ctplatform.config import EncoderConfig, ScratchConfig
from ctplatform.shards import read_patches
from ctplatform.statistics import Targets
from ctplatform.tasks import Task
from ctplatform.workspace import Workspace
from drasclr import augment
from drasclr.encoder import FEATURES, Encoder
from drasclr.norm import recalibrate

CACHE_BYTES = 2 << 30
RECALIBRATION_BATCHES = 8
_cache: OrderedDict[tuple, np.ndarray] = OrderedDict()  # one a worker process: trials that follow reuse it


class PatchPool:
    """Patches of a fixed set of locations of each scan, read once a process while they fit in CACHE_BYTES.

    Args:
        workspace: holds the shards.
        coordinates_N3: normalised coordinates of all of the atlas's locations.
        scans: subject -> its scans.
        size: locations of the pool, spread evenly over the atlas's order.
        hu_window: normalisation.
        device: where batches go.
    """

    def __init__(
        self,
        workspace: Workspace,
        coordinates_N3: np.ndarray,
        *,
        scans: Mapping[str, Sequence[str]],
        size: int,
        hu_window: tuple[float, float] = (-1024, 240),
        device: str = "cpu",
    ) -> None:
        count = len(coordinates_N3)
        self.locations_L = np.unique(np.linspace(0, count - 1, min(size, count)).round().astype(int))
        self.coordinates_L3 = torch.from_numpy(np.asarray(coordinates_N3[self.locations_L], np.float32)).to(
            device
        )
        self.workspace, self.scans, self.hu_window, self.device = workspace, scans, hu_window, device

    def scan(self, scan_id: str) -> np.ndarray:
        """hu_LDHW int16 of one scan."""
        key = (self.workspace.uri, scan_id, self.locations_L.tobytes())
        if key not in _cache:
            _cache[key] = read_patches(self.workspace, scan_id, self.locations_L)[1]
            while sum(array.nbytes for array in _cache.values()) > CACHE_BYTES and len(_cache) > 1:
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        return _cache[key]

    def batch(self, scan_ids: Sequence[str], rows: np.ndarray) -> Tensor:
        """[L, S, 1, D, H, W] normalised patches of some of the pool's locations."""
        hu_LSDHW = np.stack([self.scan(scan_id)[rows] for scan_id in scan_ids], axis=1)
        return augment.normalise(torch.from_numpy(hu_LSDHW).to(self.device), hu_window=self.hu_window)


class Scratch:
    """End-to-end training on one task's labels.

    Args:
        task: what is predicted; its kind decides the loss (squared error, all-threshold, Cox's partial likelihood).
        encoder: architecture.
        config: epochs (over all training subjects, whatever the fraction), learning rate, batch.
        steps: optimiser steps.
        seed: weights and batches.

    Fitted attributes: `losses_`, one a step.
    """

    def __init__(
        self, task: Task, *, encoder: EncoderConfig, config: ScratchConfig, steps: int, seed: int
    ) -> None:
        self.task, self.config, self.steps, self.seed = task, config, steps, seed
        torch.manual_seed(seed)
        self.encoder = Encoder(**encoder.model_dump())
        self.head = nn.Linear(FEATURES, 1)
        # Start at the best constant: few steps then never end far below it.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def fit(self, pool: PatchPool, subjects: Sequence[str], targets: Targets) -> Scratch:
        """Train on these subjects' patches and labels."""
        rng = np.random.default_rng(self.seed)
        self.objective = Objective(self.task, targets).to(pool.device)
        self.encoder.to(pool.device)
        self.head.to(pool.device)
        parameters = [*self.encoder.parameters(), *self.head.parameters(), *self.objective.parameters()]
        # Fused: 8 M parameters and small batches make the update a good part of a step.
        optimizer = torch.optim.AdamW(parameters, lr=self.config.lr, weight_decay=1e-4, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        self.losses_: list[float] = []
        self.encoder.train()
        draws = self._draws(rng, len(subjects))
        for _ in range(self.steps):
            rows = next(draws)
            patches, coordinates = self._batch(pool, [subjects[row] for row in rows], rng)
            score_S = self._score(patches, coordinates)
            loss = self.objective(score_S, torch.from_numpy(rows).to(pool.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            self.losses_.append(float(loss.detach()))
        recalibrate(self.encoder, self._mixed_batches(pool, subjects, draws, rng))
        self.encoder.eval()
        return self

    @torch.no_grad()
    def predict(self, pool: PatchPool, subjects: Sequence[str]) -> np.ndarray:
        """One prediction a subject, over all of the pool's locations and all of the subject's scans."""
        everywhere = np.arange(len(pool.locations_L))
        scores = []
        for subject in subjects:
            patches = pool.batch(pool.scans[subject], everywhere)
            scores.append(float(self._score(patches, pool.coordinates_L3).mean()))
        return self.objective.decode(np.array(scores))

    def _score(self, patches_LSCDHW: Tensor, coordinates_L3: Tensor) -> Tensor:
        features_SD = self.encoder.grouped(patches_LSCDHW, coordinates_L3).mean(0)
        return self.head(features_SD).squeeze(-1)

    def _draws(self, rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
        """Batches of subject rows: without replacement within a pass, the rest of a pass joined to the next."""
        size, waiting = min(self.config.subjects_per_batch, count), np.empty(0, int)
        while True:
            while len(waiting) < size:
                fresh = rng.permutation(count)
                fresh = np.concatenate([fresh[~np.isin(fresh, waiting)], fresh[np.isin(fresh, waiting)]])
                waiting = np.concatenate([waiting, fresh])
            yield waiting[:size]
            waiting = waiting[size:]

    def _batch(
        self, pool: PatchPool, subjects: Sequence[str], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        rows_L = np.sort(
            rng.permutation(len(pool.locations_L))[: min(self.config.locations, len(pool.locations_L))]
        )
        scan_ids = [rng.choice(pool.scans[subject]) for subject in subjects]
        return pool.batch(scan_ids, rows_L), pool.coordinates_L3[torch.from_numpy(rows_L).to(pool.device)]

    def _mixed_batches(
        self,
        pool: PatchPool,
        subjects: Sequence[str],
        draws: Iterator[np.ndarray],
        rng: np.random.Generator,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(min(RECALIBRATION_BATCHES, self.steps)):
            patches, coordinates = self._batch(pool, [subjects[row] for row in next(draws)], rng)
            yield patches.flatten(0, 1), coordinates.repeat_interleave(patches.shape[1], dim=0)


class Objective(nn.Module):
    """Loss of one score a subject, and what a score means.

    continuous: squared error of the standardised label. ordinal, binary: all-threshold logistic loss with learned
    thresholds, as the frozen heads' (`ctplatform.probes.Cumulative`). survival: Cox's partial likelihood within the
    batch, ties as Breslow.
    """

    def __init__(self, task: Task, targets: Targets) -> None:
        super().__init__()
        self.task = task
        value = torch.from_numpy(targets.value_N.astype(np.float32))
        self.mean, self.spread = float(value.mean()), float(value.std(correction=0)) or 1.0
        self.value_N: Tensor
        self.event_N: Tensor
        if task.kind == "continuous":
            self.register_buffer("value_N", (value - self.mean) / self.spread)
        elif task.kind == "survival":
            assert targets.event_N is not None
            self.register_buffer("value_N", value)
            self.register_buffer("event_N", torch.from_numpy(targets.event_N))
        else:
            self.classes, level_N = np.unique(targets.value_N, return_inverse=True)
            self.register_buffer("value_N", torch.from_numpy(level_N))
            above = (level_N[:, None] > np.arange(len(self.classes) - 1)).mean(0)
            self.thresholds = nn.Parameter(torch.from_numpy(-np.log(above / (1 - above))).float())

    def forward(self, score_S: Tensor, rows_S: Tensor) -> Tensor:
        """Mean loss of the batch whose subjects are at `rows_S` of the training targets."""
        value_S = self.value_N[rows_S]
        if self.task.kind == "continuous":
            return (score_S - value_S).square().mean()
        if self.task.kind == "survival":
            return _cox_loss(score_S, value_S, self.event_N[rows_S])
        above_ST = value_S[:, None] > torch.arange(len(self.classes) - 1, device=value_S.device)
        margin_ST = score_S[:, None] - self.thresholds
        return nn.functional.binary_cross_entropy_with_logits(margin_ST, above_ST.float())

    def decode(self, score_N: np.ndarray) -> np.ndarray:
        """Scores to predictions: the label's unit, the class, the probability, or the log hazard."""
        if self.task.kind == "continuous":
            return self.task.clip(score_N * self.spread + self.mean)
        if self.task.kind == "survival":
            return score_N
        thresholds = np.sort(self.thresholds.detach().cpu().numpy())
        if self.task.kind == "binary":
            return 1 / (1 + np.exp(thresholds[0] - score_N))
        return self.classes[(score_N[:, None] > thresholds).sum(1)].astype(float)


def _cox_loss(score_S: Tensor, time_S: Tensor, event_S: Tensor) -> Tensor:
    at_risk_SS = time_S[None, :] >= time_S[:, None]
    log_risk_S = score_S[None, :].masked_fill(~at_risk_SS, -torch.inf).logsumexp(1)
    # A batch without an event teaches nothing; its loss is zero, not undefined.
    return ((log_risk_S - score_S) * event_S).sum() / event_S.sum().clamp(min=1)
