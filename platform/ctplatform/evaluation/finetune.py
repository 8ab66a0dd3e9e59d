"""End-to-end training of an encoder on a task's labels: from random weights (the from-scratch baseline) or fine-tuned
from pretrained ones.

A subject's score is a linear function of the mean feature over some of its locations. Every label fraction, and both
starts, get the same number of steps on the same batches, so that little data is not confounded with little training,
nor a good start with a long one.

Legend: L locations, S subjects (scans) of a batch, P features, D H W space.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ctplatform.config.evaluation import ScratchConfig
from ctplatform.config.training import EncoderConfig
from ctplatform.dataset.shards import read_patches
from ctplatform.evaluation.objective import Objective
from ctplatform.metrics.scores import Targets
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import Task
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


class EndToEnd:
    """End-to-end training on one task's labels.

    From random weights the head starts at the best constant, and normalisation statistics are those of the batches,
    computed anew after training. From pretrained weights the head starts where the frozen probe ends (linear probing,
    then fine-tuning: Kumar et al., ICLR 2022), so that without a step the prediction is the probe's; normalisation
    keeps the pretrained statistics, which a handful of patches could not replace.

    Args:
        task: what is predicted; its kind decides the loss (squared error, all-threshold, Cox's partial likelihood).
        encoder: architecture.
        config: learning rate, weight decay, batch.
        steps: optimiser steps.
        seed: weights and batches.
        pretrained: start from a copy of these weights instead of random ones.
        lr, weight_decay: instead of the configuration's.

    Fitted attributes: `losses_`, one a step.
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
        lr: float | None = None,
        weight_decay: float | None = None,
    ) -> None:
        self.task, self.config, self.steps, self.seed = task, config, steps, seed
        self.lr = config.lr if lr is None else lr
        self.weight_decay = config.weight_decay if weight_decay is None else weight_decay
        torch.manual_seed(seed)
        self.pretrained = pretrained is not None
        self.encoder = Encoder(**encoder.model_dump()) if pretrained is None else copy.deepcopy(pretrained)
        self.head = nn.Linear(FEATURES, 1)
        # Start at the best constant: few steps then never end far below it.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

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
        for step in self.train(pool, subjects, targets):
            if on_step:
                on_step(step)
        return self

    def train(self, pool: PatchPool, subjects: Sequence[str], targets: Targets) -> Iterator[int]:
        """As `fit`, one step at a time: yields the steps done. Who stops early has an unfinished model."""
        rng = np.random.default_rng(self.seed)
        self.objective = Objective(self.task, targets).to(pool.device)
        self.encoder.to(pool.device)
        self.head.to(pool.device)
        nn.init.constant_(self.head.bias, self.objective.start)
        if self.pretrained:
            self._start_at_probe(pool, subjects, targets)
        parameters = [*self.encoder.parameters(), *self.head.parameters(), *self.objective.parameters()]
        # Fused: 8 M parameters and small batches make the update a good part of a step.
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.steps, 1))
        self.losses_: list[float] = []
        draws = self._draws(rng, len(subjects))
        for step in range(1, self.steps + 1):
            self.encoder.train(not self.pretrained)
            rows = next(draws)
            patches, coordinates = self._batch(pool, [subjects[row] for row in rows], rng)
            score_S = self._score(patches, coordinates)
            loss = self.objective(score_S, torch.from_numpy(rows).to(pool.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            self.losses_.append(float(loss.detach()))
            yield step
        if not self.pretrained:
            self.recalibrate(pool, subjects, rng)
        self.encoder.eval()

    def loss(
        self, pool: PatchPool, subjects: Sequence[str], targets: Targets, *, fitted_on: Sequence[str]
    ) -> float:
        """Loss of other subjects, validation subjects for example; may be asked for while training goes on."""
        if not self.pretrained:
            self.recalibrate(pool, fitted_on, np.random.default_rng([self.seed, len(self.losses_)]))
        with torch.no_grad():
            x_SP = torch.from_numpy(self.features(pool, subjects)).to(self.head.weight)
            return self.objective.loss_of(self.head(x_SP).squeeze(-1).double().cpu().numpy(), targets)

    def recalibrate(self, pool: PatchPool, subjects: Sequence[str], rng: np.random.Generator) -> None:
        """Normalisation statistics over batches that mix locations; fine-tuned encoders keep their own."""
        recalibrate(self.encoder, self._mixed_batches(pool, subjects, self._draws(rng, len(subjects)), rng))

    @torch.no_grad()
    def features(self, pool: PatchPool, subjects: Sequence[str]) -> np.ndarray:
        """Mean feature of each subject over all of the pool's locations and its scans, x_SP float64."""
        self.encoder.eval()
        everywhere = np.arange(len(pool.locations_L))
        rows = [
            self.encoder.grouped(pool.batch(pool.scans[subject], everywhere), pool.coordinates_L3)
            .mean((0, 1))
            .double()
            .cpu()
            .numpy()
            for subject in subjects
        ]
        return np.stack(rows)

    def predict(self, pool: PatchPool, subjects: Sequence[str]) -> np.ndarray:
        """One prediction a subject, over all of the pool's locations and all of the subject's scans."""
        with torch.no_grad():
            x_SP = torch.from_numpy(self.features(pool, subjects)).to(self.head.weight)
            return self.objective.decode(self.head(x_SP).squeeze(-1).double().cpu().numpy())

    def _start_at_probe(self, pool: PatchPool, subjects: Sequence[str], targets: Targets) -> None:
        probe = self.task.probe().fit(self.features(pool, subjects), targets, seed=self.seed)
        weights_P, bias = self.objective.adopt(probe)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weights_P)[None])
            self.head.bias.fill_(bias)

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
