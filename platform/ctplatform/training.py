"""The training loop of one rank: steps, metrics, checkpoints, weights. Knows torch, not Ray."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ctplatform import __version__, ledger
from ctplatform.atlas import read_atlas
from ctplatform.config import PretrainConfig, Recipe
from ctplatform.feed import Batch, Feed, ScanEntry
from ctplatform.pace import Pace
from ctplatform.pretrain import CARD_FILE, FOLDER, METRICS_FILE, PROGRESS_FILE
from ctplatform.splits import read_split
from ctplatform.workspace import Workspace
from drasclr import augment, weights
from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder
from drasclr.norm import recalibrate

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.online_probe import OnlineProbe
    from ctplatform.watch import Watch
    from drasclr.atlas import Atlas
    from drasclr.contrast import Contrast

logger = logging.getLogger(__name__)
WEIGHTS_FILE, STATE_FILE = "weights.safetensors", "state.pt"
CALIBRATION_STEPS = 24
VIEW_QUERY, VIEW_KEY, VIEW_NEIGHBOUR = 0, 1, 2


class Loop:
    """The training loop of one rank.

    Args:
        workspace: holds the data; rank 0 writes metrics, progress and at the end the weights.
        recipe: the whole recipe.
        run: name below `pretrain/`.
        rank: this worker's place among `world`.
        world: number of workers; more than one needs an initialised process group.
        device: where the model lives.

    Attributes:
        watch: dashboards that get each logged line; rank 0 may have them.
        probe: scores the encoder after epochs; rank 0 may have one.
    """

    def __init__(
        self, workspace: Workspace, recipe: Recipe, run: str, *, rank: int, world: int, device: torch.device
    ) -> None:
        self.workspace, self.recipe, self.run_, self.rank, self.world = workspace, recipe, run, rank, world
        self.config, self.device = recipe.pretrain, device
        self.atlas = read_atlas(workspace)
        torch.manual_seed(self.config.seed)
        self.model = build_model(self.config, self.atlas).to(device).train()
        self.model.memory.to(device)
        self.scans = training_scans(workspace, recipe)
        self.feed = Feed(
            workspace,
            self.scans,
            self.atlas,
            scans_per_batch=self.config.scans_per_batch,
            locations_per_batch=self.config.locations_per_batch,
            seed=self.config.seed,
            rank=rank,
            world=world,
        )
        self.steps_per_epoch = self.feed.steps_per_epoch()
        planned = self.config.epochs * self.steps_per_epoch
        self.total_steps = min(planned, self.config.max_steps or planned)
        self.parallel: Any = self.model
        if world > 1:
            self.parallel = torch.nn.parallel.DistributedDataParallel(
                self.model,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
            )
        self.optimizer = _optimizer(self.model, self.config)
        self.step = 0
        self.watch: Watch | None = None
        self.probe: OnlineProbe | None = None
        self.lines: list[dict[str, Any]] = []
        self._flushed = 0.0  # when the newest line was last shown
        if self.config.precision == "bf16" and device.type != "cuda" and rank == 0:
            logger.warning("pretrain.precision=bf16 is ignored on the CPU, where it is far slower than fp32")

    def run(self, *, on_checkpoint: Callable[[Loop, dict[str, float]], None]) -> None:
        """Train to the end; `on_checkpoint` is called on every rank equally often, at the end too."""
        if self.probe and self.step == 0:
            self.probe.begin(self.model.query)
        first, pace = self.step, Pace()
        metrics: dict[str, float] = {}
        while self.step < self.total_steps:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            for batch in self.feed.epoch(epoch, start_step=done):
                contrast = self.train_step(batch, epoch)
                self.step += 1
                patches = batch.anchors_GSDHW.shape[0] * batch.anchors_GSDHW.shape[1] * self.world
                pace.step(patches, waited_s=self.feed.waited_s)
                last = self.step == self.total_steps
                ended = self.step % self.steps_per_epoch == 0 or last
                if self.step % self.config.log_every == 0 or ended or self.step == first + 1:
                    metrics = self._metrics(contrast, epoch, *pace.lap(), pace.seconds)
                    with pace.aside():
                        if self.probe and ended and self.probe.due(self.step, self.steps_per_epoch):
                            metrics["probe"] = self.probe.score(self.model.query)
                        self._log(metrics)
                if self.step % self.config.checkpoint_every == 0 or last:
                    with pace.aside():
                        self._flush(force=True)
                        on_checkpoint(self, metrics)
                if last:
                    break
        if self.rank == 0:
            self._flush(force=True)
            self.publish()
            if self.watch:
                self.watch.close()

    def train_step(self, batch: Batch, epoch: int) -> Contrast:
        """One optimiser step on one batch (this rank's share)."""
        self._set_lr()
        window = self.recipe.prepare.hu_window

        def view(hu_GSDHW: torch.Tensor, locations_G: torch.Tensor, number: int) -> torch.Tensor:
            hu_GSDHW = hu_GSDHW.to(self.device, non_blocking=True)
            if not self.config.augment:
                return augment.normalise(hu_GSDHW, hu_window=window)
            parameters = augment.draw(
                seed=self.config.seed, epoch=epoch, scans=batch.scans_S, locations=locations_G, view=number
            )
            return augment.apply(hu_GSDHW, parameters, hu_window=window)

        query = view(batch.anchors_GSDHW, batch.locations_G, VIEW_QUERY)
        key = view(batch.anchors_GSDHW, batch.locations_G, VIEW_KEY)
        near = batch.neighbours_GKSDHW
        shape = near.shape[:3]
        neighbours = query.new_zeros((*shape, *query.shape[2:]))
        if self.config.beta > 0 and near.numel():
            flat = view(near.flatten(0, 1), batch.neighbour_locations_GK.flatten(), VIEW_NEIGHBOUR)
            neighbours = flat.unflatten(0, shape[:2])
        bf16 = self.config.precision == "bf16" and self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if bf16 else nullcontext():
            contrast = self.parallel(query, key, neighbours, batch.locations_G, batch.subjects_S)
        self.optimizer.zero_grad(set_to_none=True)
        contrast.loss.backward()
        self.optimizer.step()
        keys, subjects = self._gather(contrast.keys_GSD.detach(), batch.subjects_S)
        self.model.memory.enqueue(batch.locations_G, keys, subjects)
        return contrast

    def _gather(self, keys_GSD: torch.Tensor, subjects_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and subjects of all ranks, in rank order, the same on every rank."""
        if self.world == 1:
            return keys_GSD, subjects_S
        keys_GSD, subjects_S = keys_GSD.contiguous(), subjects_S.to(keys_GSD.device)
        keys = [torch.empty_like(keys_GSD) for _ in range(self.world)]
        subjects = [torch.empty_like(subjects_S) for _ in range(self.world)]
        torch.distributed.all_gather(keys, keys_GSD)
        torch.distributed.all_gather(subjects, subjects_S)
        return torch.cat(keys, 1), torch.cat(subjects)

    def _set_lr(self) -> None:
        if self.step < self.config.warmup_steps:
            factor = (self.step + 1) / self.config.warmup_steps
        else:
            span = max(1, self.total_steps - self.config.warmup_steps)
            factor = 0.5 * (1 + math.cos(math.pi * (self.step - self.config.warmup_steps) / span))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor

    def _metrics(
        self, contrast: Contrast, epoch: int, rate: float, wait: float, seconds: float
    ) -> dict[str, float]:
        """Averages over the ranks; a collective, called by all of them."""
        named = {
            "loss": contrast.loss,
            "local": contrast.local,
            "global": contrast.global_,
            **contrast.metrics,
            "data_wait": torch.tensor(wait),
        }
        values = torch.stack([torch.as_tensor(v).detach().float().to(self.device) for v in named.values()])
        if self.world > 1:
            torch.distributed.all_reduce(values)
            values /= self.world
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "epoch": epoch,
            **{name: round(float(value), 6) for name, value in zip(named, values.tolist(), strict=True)},
            "lr": self.optimizer.param_groups[0]["lr"],
            "patches_per_s": round(rate, 2),
            "seconds": round(seconds, 2),
        }

    def _log(self, metrics: dict[str, float]) -> None:
        if self.rank == 0:
            self.lines.append(metrics)
            if self.watch:
                self.watch.log(metrics)
            self._flush()

    def _flush(self, *, force: bool = False) -> None:
        """Object stores cannot append: the newest line often, the whole file with each checkpoint."""
        if self.rank != 0 or not self.lines:
            return
        now = time.monotonic()
        if force or now - self._flushed > 1.0:
            self._flushed = now
            self.workspace.write_json(self.lines[-1], FOLDER, self.run_, PROGRESS_FILE)
        if force:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            self.workspace.write_bytes(text.encode(), FOLDER, self.run_, METRICS_FILE)
            if self.watch:
                self.watch.flush()

    def save(self, folder: Path) -> None:
        """Write all that a resumed run needs: model, momentum model, memory, optimiser, step and metrics."""
        torch.save(
            {
                "model": self.model.state_dict(),
                "memory": self.model.memory.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "lines": self.lines,
            },
            folder / STATE_FILE,
        )

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(folder / STATE_FILE, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.model.memory.load_state_dict(state["memory"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.lines = state["step"], state["lines"]
        logger.info("rank %d goes on at step %d of %d", self.rank, self.step, self.total_steps)

    def publish(self) -> None:
        """Write the query encoder's weights and card: the run is finished once the card is there."""
        # Trained block by block, it carries the statistics of the last blocks.
        calibrate(self.model.query, self.feed, self.atlas, hu_window=self.recipe.prepare.hu_window)
        card = {
            "run": self.run_,
            "spacing_mm": 1.0,
            "hu_window": list(self.recipe.prepare.hu_window),
            "patch_size": self.atlas.patch_size,
            "atlas_hash": self.atlas.hash,
            "normalisation": {
                "patch": "(clip(hu) - low) / ((high - low) / 2) - 1",
                "location": "corner / max * 2 - 1",
            },
            "provenance": {
                "software": __version__,
                "steps": self.step,
                "scans": len(self.scans),
                "subjects": len({scan.subject for scan in self.scans}),
                "pretrain": self.config.model_dump(mode="json"),
                "metrics": self.lines[-1] if self.lines else {},
            },
        }
        # The card comes last: it is what says that the run is finished.
        for name, data in sorted(
            weights.files(self.model.query, card).items(), key=lambda f: f[0] == CARD_FILE
        ):
            self.workspace.write_bytes(data, FOLDER, self.run_, name)


def build_model(config: PretrainConfig, atlas: Atlas) -> DrasCLR:
    """Both encoders, losses and memory as the recipe asks."""
    return DrasCLR(
        encoder=Encoder(**config.encoder.model_dump()),
        coordinates_N3=atlas.coordinates_N3,
        neighbours_NK=atlas.neighbours_NK,
        queue_size=config.queue_size,
        temperature=config.temperature,
        momentum=config.momentum,
        beta=config.beta,
        local_weight=config.local_weight,
        neighbour_aggregation=config.neighbour_aggregation,
        exclude_same_subject=config.exclude_same_subject,
        batch_negatives=config.batch_negatives,
        shuffle_keys=config.shuffle_keys,
    )


def calibrate(encoder: Encoder, feed: Feed, atlas: Atlas, *, hu_window: tuple[int, int]) -> None:
    """Replace the normalisation statistics by the mean over batches that together hold all blocks of locations."""
    device = next(encoder.parameters()).device
    coordinates_N3 = torch.from_numpy(np.array(atlas.coordinates_N3, dtype=np.float32))

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in feed.sample(epoch=0, count=CALIBRATION_STEPS):
            hu_GSDHW = batch.anchors_GSDHW.to(device)
            locations_B3 = coordinates_N3[batch.locations_G].repeat_interleave(hu_GSDHW.shape[1], dim=0)
            yield augment.normalise(hu_GSDHW, hu_window=hu_window).flatten(0, 1), locations_B3.to(device)

    with torch.no_grad():
        recalibrate(encoder, batches())


def training_rows(workspace: Workspace, recipe: Recipe, *, also: tuple[str, ...] = ()) -> pd.DataFrame:
    """Ledger rows of the scans that are trained on: usable ones of the split's training subjects.

    `also` names columns beside scan_id, subject_id, state and content_hash.
    """
    rows = ledger.read_ledger(workspace, columns=["scan_id", "subject_id", "state", "content_hash", *also])
    rows = ledger.usable(rows, use_flagged=recipe.prepare.quality.use_flagged)
    return rows[rows["subject_id"].isin(read_split(workspace).train)].reset_index(drop=True)


def training_scans(workspace: Workspace, recipe: Recipe) -> list[ScanEntry]:
    """The scans that are trained on, with their footers, sorted by id; subjects numbered in sorted order."""
    rows = training_rows(workspace, recipe, also=("footer",))
    number = {subject: i for i, subject in enumerate(sorted(set(rows["subject_id"])))}
    return [ScanEntry(row.scan_id, number[row.subject_id], row.footer) for row in rows.itertuples()]


def _optimizer(model: DrasCLR, config: PretrainConfig) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.sgd_momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
