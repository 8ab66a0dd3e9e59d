"""The training loop of one rank: steps, metrics, checkpoints. Depends on torch, not on Ray."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.storage.layout import CHECKPOINT_STATE, PRETRAIN
from ctplatform.storage.workspace import Workspace
from ctplatform.training import collapse, partition
from ctplatform.training.batch import Batch
from ctplatform.training.checkpoints import Checkpoint, Checkpoints, folder_of, memory_file
from ctplatform.training.feed import Feed
from ctplatform.training.finiteness import all_finite
from ctplatform.training.initial_weights import read_initial
from ctplatform.training.metrics_log import MetricsLog
from ctplatform.training.model import build_model
from ctplatform.training.optimisation import Optimisation
from ctplatform.training.publication import calibrate_norm, publish
from ctplatform.training.runs import training_scans
from ctplatform.training.selection import STATE as SELECTION
from ctplatform.training.selection import Selection
from ctplatform.training.stop_agreement import Agreement, Interrupted
from ctplatform.training.throughput import Throughput
from ctplatform.training.views import views_of
from drasclr.encoder import FEATURES
from drasclr.gather import Gather, share

if TYPE_CHECKING:
    from ctplatform.training.online_probe import OnlineProbe
    from drasclr.contrast import Contrast, DrasCLR

logger = logging.getLogger(__name__)


class Loop:
    """The training loop of one rank.

    Args:
        workspace: holds the data; rank 0 writes metrics and at the end the weights, all ranks write checkpoints.
        recipe: the whole recipe.
        run: its name below `pretrain/`.
        rank: of this worker.
        world: number of workers; more than one needs an initialised process group.
        device: of the model.

    Attributes:
        step: optimiser steps made.
        log: the logged lines; rank 0 may set its `tracker`.
        probe: scores the encoder after epochs; rank 0 may have one, and has with `best_by: probe`.
        selection: the best encoder by the probe, with `best_by: probe`; on all ranks, the weights on rank 0.
        interrupted: whether this rank has been requested to stop; called once a step, so it must be cheap.
    """

    def __init__(
        self, workspace: Workspace, recipe: Recipe, run: str, *, rank: int, world: int, device: torch.device
    ) -> None:
        self.workspace, self.recipe, self.run_name = workspace, recipe, run
        self.rank, self.world = rank, world
        self.config, self.device = recipe.pretrain, device
        self.atlas = read_atlas(workspace)
        self.scans = training_scans(workspace, recipe)
        partition.check_workers(self.config, self.atlas, len(self.scans), world)
        self.feed = self._feed(rank, world)
        # A worker's mean is weighted by its part of the scans: the mean over workers is then the mean over all scans.
        self.weight = share(rank, world, self.feed.batch) * world / self.feed.batch
        torch.manual_seed(self.config.seed)
        self.model = self._model().to(device).train()
        self.model.memory.to(device)
        self.checkpoints = Checkpoints(workspace, PRETRAIN, run, config=self.config)
        self.steps_per_epoch = self.feed.steps_per_epoch()
        planned = self.config.epochs * self.steps_per_epoch
        self.total_steps = min(planned, self.config.max_steps or planned)
        self.parallel: Any = self.model
        if world > 1:
            self.parallel = torch.nn.parallel.DistributedDataParallel(
                self.model,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        self.optimisation = Optimisation(self.model, self.config, run=run, total_steps=self.total_steps)
        self.step = 0
        self.log = MetricsLog(workspace, run, active=rank == 0)
        self.probe: OnlineProbe | None = None
        self.selection = Selection(patience=self.config.patience) if self.config.best_by == "probe" else None
        self.interrupted: Callable[[], bool] = lambda: False
        self.agreement = Agreement(world)
        self.recent: deque[dict[str, Any]] = deque(maxlen=collapse.WINDOW)
        if self.config.precision == "bf16" and device.type != "cuda" and rank == 0:
            logger.warning("pretrain.precision=bf16 is ignored on the CPU, where it is far slower than fp32")

    def _feed(self, rank: int, world: int) -> Feed:
        return Feed(
            self.workspace,
            self.scans,
            self.atlas,
            scans_per_batch=self.config.scans_per_batch,
            locations_per_batch=self.config.locations_per_batch,
            seed=self.config.seed,
            rank=rank,
            world=world,
            own_blocks=self.config.memory == "location_parallel",
            device=self.device,
        )

    def _model(self) -> DrasCLR:
        initial = read_initial(self.workspace, self.run_name)
        if self.config.memory == "location_parallel":
            own = torch.from_numpy(partition.locations_of(self.atlas, self.rank, self.world))
            return build_model(self.config, self.atlas, memory_locations=own, initial=initial)
        gather = Gather(rank=self.rank, world=self.world, total=self.feed.batch)
        gather_or_none = gather if self.world > 1 else None
        return build_model(self.config, self.atlas, gather=gather_or_none, initial=initial)

    def run(self, *, on_checkpoint: Callable[[Loop], None] | None = None) -> None:
        """Train to the end; `on_checkpoint` is called on every rank after each checkpoint, including the last.

        Raises:
            Interrupted: a rank was requested to stop; the step that was running, and at most one more, were made, and a
                checkpoint is committed.
            StageError: training diverged, or the representation collapsed and `on_collapse` is `stop`. On all ranks at
                the same step.
        """
        if self.probe and self.step == 0:
            self.probe.write_baselines(self.model.query)
        throughput = Throughput()
        metrics = self.log.last
        last = self._ended()
        while not last:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            for batch in self.feed.epoch(epoch, start_step=done):
                contrast = self.train_step(batch)
                self.step += 1
                throughput.step(len(batch.locations_G) * self.feed.batch, waited_s=self.feed.waited_s)
                last = self.step == self.total_steps
                ended = self.step % self.steps_per_epoch == 0 or last
                stopping = self.agreement.reached(self.interrupted())
                if self.step % self.config.log_every == 0 or ended or self.step == 1:
                    metrics = self._metrics(contrast, batch, *throughput.lap(), throughput.seconds)
                    with throughput.excluded():
                        if ended:
                            self._probe(metrics, last=last)
                        self._log(metrics)
                last = self._ended()
                stopping = stopping and not last
                if self.step % self.config.checkpoint_every == 0 or last or stopping:
                    with throughput.excluded():
                        self.save(metrics)
                        if on_checkpoint:
                            on_checkpoint(self)
                if stopping:
                    raise Interrupted(self.step)
                if last:
                    break
        if self.rank == 0:
            self.log.flush()
        self.publish()
        if self.rank == 0:
            self.log.close()

    def _ended(self) -> bool:
        """Whether no step follows: all are made, or the probe has not improved for as long as `patience` allows."""
        return self.step >= self.total_steps or bool(self.selection and self.selection.exhausted)

    def _probe(self, metrics: dict[str, float], *, last: bool) -> None:
        """Score the encoder at the end of an epoch, where it is due, and at the last step of a run that selects by it.

        A collective operation of such a run: every rank calls it.
        """
        every = self.config.probe.every_epochs * self.steps_per_epoch
        if (not every or self.step % every) and not (self.selection and last):
            return
        if self.probe and (score := self.probe.score(self.model.query)) is not None:
            metrics["probe"] = score
            if self.selection:
                higher = self.probe.task.scores[0].higher_is_better
                self.selection.offer(self.step, score, self.model.query, higher_is_better=higher)
        if self.selection and self.world > 1:
            self.selection.share(rank=self.rank, device=self.device)

    def _log(self, metrics: dict[str, float]) -> None:
        """Log a line, marked if the representation collapses; warn at the first such line, or stop. The same on all
        ranks."""
        before = bool(self.recent and self.recent[-1]["collapsed"])
        self.recent.append(metrics)
        found = collapse.signs(self.recent)
        metrics["collapsed"] = int(found is not None and found.collapsed)
        self.log.append(metrics)
        if not metrics["collapsed"] or found is None:
            return
        if self.config.on_collapse == "stop":
            self.log.flush()
            raise StageError(
                f"pretraining of run {self.run_name} was stopped: {collapse.problem(found)}",
                f"{collapse.remedy(found, self.config)}; pretrain.on_collapse=warn trains on",
                code="collapsed",
            )
        if self.rank == 0 and not before:
            logger.warning("%s", collapse.message(found, self.config))

    def train_step(self, batch: Batch) -> Contrast:
        """One optimiser step on this rank's part of a batch."""
        self.optimisation.schedule(self.step)
        # A resumed run repeats the step with the same random numbers (the permutation of shuffled keys).
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 4099 + self.rank)
        query, key, neighbours = views_of(batch, self.recipe, self.device)
        bf16 = self.config.precision == "bf16" and self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if bf16 else nullcontext():
            contrast: Contrast = self.parallel(query, key, neighbours, batch.locations_G, batch.subjects_S)
        self.optimisation.descend(contrast.loss * self.weight, self.step)
        self.model.memory.enqueue(batch.locations_G, contrast.keys_GSD, contrast.subjects_S)
        return contrast

    def _metrics(
        self, contrast: Contrast, batch: Batch, rate: float, wait: float, seconds: float
    ) -> dict[str, float]:
        """Means over the scans of all ranks. A collective operation: every rank calls it.

        Raises:
            StageError: the step has diverged.
        """
        self.optimisation.confirm()
        named = {
            "loss": contrast.loss,
            "local": contrast.local,
            "global": contrast.global_,
            **contrast.metrics,
            "relative_rank": self._relative_rank(contrast, batch),
            "data_wait": torch.tensor(wait),
        }
        values = torch.stack([torch.as_tensor(v).detach().float().to(self.device) for v in named.values()])
        if self.world > 1:
            values *= self.weight
            torch.distributed.all_reduce(values)
            values /= self.world
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "epoch": batch.epoch,
            "workers": self.world,
            **{name: round(float(value), 6) for name, value in zip(named, values.tolist(), strict=True)},
            "lr": self.optimisation.lr,
            "patches_per_s": round(rate, 2),
            "seconds": round(seconds, 2),
        }

    def _relative_rank(self, contrast: Contrast, batch: Batch) -> float:
        """Of this rank's embeddings, whose number may differ from that of other ranks."""
        return collapse.relative_rank(
            float(contrast.metrics.get("effective_rank", torch.nan)),
            embeddings=len(batch.locations_G) * len(batch.scans_S),
            features=FEATURES,
        )

    def _check_finite(self) -> None:
        """A collective operation: every rank calls it.

        Raises:
            StageError: model, optimiser or keys are not finite, on any rank.
        """
        self.optimisation.confirm()
        finite = all_finite(
            self.model.state_dict(), self.optimisation.optimizer.state_dict(), self.model.memory.keys_NKD
        ).int()
        if self.world > 1:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        if not finite:
            raise self.optimisation.diverged(self.step, "the state of the model is not finite")

    def save(self, metrics: dict[str, float]) -> None:
        """Write and commit a checkpoint. A collective operation: every rank calls it.

        It holds the encoder, momentum encoder, memory, optimiser, step and metrics. Learning rate, position in the data
        and random numbers follow from seed and step.

        Raises:
            StageError: what would be written is not finite.
        """
        self.log.flush()
        self._check_finite()
        epoch, done = divmod(self.step, self.steps_per_epoch)
        parallel = self.config.memory == "location_parallel"
        holders = self.world if parallel else 1
        if self.rank < holders:
            self.checkpoints.write(self.step, memory_file(self.rank, holders), self.model.memory.state_dict())
        if self.rank == 0:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimisation.optimizer.state_dict(),
                "step": self.step,
                "lines": self.log.lines,
            }
            if self.selection:
                state[SELECTION] = self.selection.state_dict()
            self.checkpoints.write(self.step, CHECKPOINT_STATE, state)
        if self.world > 1:
            torch.distributed.barrier()
        if self.rank == 0:
            held = [
                partition.locations_of(self.atlas, rank, holders)
                if parallel
                else np.arange(self.atlas.num_locations)
                for rank in range(holders)
            ]
            memory = {memory_file(rank, holders): held[rank].tolist() for rank in range(holders)}
            self.checkpoints.commit(
                Checkpoint(
                    name=folder_of(self.step),
                    step=self.step,
                    epoch=epoch,
                    step_of_epoch=done,
                    workers=self.world,
                    metrics=metrics,
                    files=dict.fromkeys((CHECKPOINT_STATE, *memory), 0),
                    shares=memory,
                )
            )

    def resume(self) -> None:
        """Resume from the newest checkpoint if there is one, whatever the number of workers that wrote it."""
        found = self.checkpoints.newest_finite(self.device)
        if self.rank == 0:
            self.checkpoints.discard_after(found[0].step if found else -1)
            self.checkpoints.prune()
        if found is None:
            return
        checkpoint, state = found
        self.model.load_state_dict(state["model"])
        self.optimisation.optimizer.load_state_dict(state["optimizer"])
        self.step, self.log.lines = state["step"], state["lines"]
        self.recent.extend({"collapsed": 0, **line} for line in self.log.lines[-collapse.WINDOW :])
        if self.selection:
            self.selection.load_state_dict(state[SELECTION])
        own = set(self.model.memory.locations.tolist())
        names = [name for name, locations in checkpoint.shares.items() if own & set(locations)]
        self.model.memory.load_state_dict(*(self.checkpoints.read(checkpoint, name) for name in names))
        logger.info("rank %d resumes at step %d of %d", self.rank, self.step, self.total_steps)

    def publish(self) -> None:
        """Write the query encoder, with `best_by: probe` that of the best probe, as weights. A collective operation.

        Raises:
            StageError: the calibrated encoder is not finite; nothing is written.
        """
        encoder = self.model.query
        if self.selection:
            if self.selection.weights:
                encoder.load_state_dict(self.selection.weights)
            if self.world > 1:  # only rank 0 has them
                for value in encoder.state_dict().values():
                    torch.distributed.broadcast(value, src=0)
        # After training block by block, normalisation holds the statistics of the last blocks. They are computed over
        # all scans and blocks, not this rank's, so that the weights do not depend on the number of workers.
        calibrate_norm(
            encoder,
            self._feed(0, 1),
            self.atlas,
            hu_window=self.recipe.prepare.hu_window,
            rank=self.rank,
            world=self.world,
        )
        if self.rank > 0:
            return
        if not all_finite(encoder.state_dict()):
            raise self.optimisation.diverged(self.step, "the calibrated encoder is not finite")
        publish(
            self.workspace,
            self.recipe,
            self.run_name,
            encoder,
            self.atlas,
            step=self.step,
            scans=self.scans,
            lines=self.log.lines,
            selection=self.selection,
            task=self.probe.task.name if self.probe else None,
        )
