"""Checkpoints of a training run: written by all workers, committed by one small file, kept by age and by worth.

A checkpoint is a folder below the run's. What is in it counts once `checkpoint.json` is there, which is written last,
whole or not at all, and names every file with its size. What a killed run left half is never read, and taken away with
the next commit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ctplatform.config.training import PretrainConfig
from ctplatform.errors import StageError
from ctplatform.storage.layout import CHECKPOINT_MANIFEST, CHECKPOINTS
from ctplatform.storage.workspace import Workspace

logger = logging.getLogger(__name__)
#: Measures of which more is better; of all others less is.
LARGER_IS_BETTER = ("top1", "effective_rank")


@dataclass(frozen=True)
class Checkpoint:
    """A committed one.

    Attributes:
        name: its folder.
        step: optimiser steps made.
        epoch: passes over the data that were complete.
        step_of_epoch: steps made of the one that was not.
        workers: how many trained when it was written.
        metrics: logged last before it.
        files: name -> bytes.
        shares: file of a part of the key memory -> the locations it holds.
    """

    name: str
    step: int
    epoch: int
    step_of_epoch: int
    workers: int
    metrics: dict[str, float]
    files: dict[str, int]
    shares: dict[str, list[int]]


class Checkpoints:
    """Checkpoints of one run.

    Args:
        workspace: that the run is in.
        folders: of the run in it.
        config: says which are kept.
    """

    def __init__(self, workspace: Workspace, *folders: str, config: PretrainConfig) -> None:
        self.workspace, self.path, self.config = workspace, (*folders, CHECKPOINTS), config

    def committed(self) -> list[Checkpoint]:
        """All that are whole, oldest first."""
        found = []
        for name in self.workspace.folders(*self.path):
            if self.workspace.exists(*self.path, name, CHECKPOINT_MANIFEST):
                found.append(Checkpoint(**self.workspace.read_json(*self.path, name, CHECKPOINT_MANIFEST)))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def newest(self) -> Checkpoint | None:
        """The one to go on from; one that a disk did not keep in full is passed over."""
        for checkpoint in reversed(self.committed()):
            sizes = {
                name: self.workspace.size(*self.path, checkpoint.name, name) for name in checkpoint.files
            }
            if sizes == checkpoint.files:
                return checkpoint
            logger.warning(
                "%s is damaged and passed over", self.workspace.display(*self.path, checkpoint.name)
            )
        return None

    def write(self, step: int, name: str, state: Mapping[str, Any]) -> None:
        """Write one file of a checkpoint; each worker its own."""
        import torch

        def save(stream: BinaryIO) -> None:
            torch.save(state, stream)

        self.workspace.write_stream(save, *self.path, folder_of(step), name)

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make it count, once all its files are there; then take away what is not to be kept.

        Raises:
            StageError: one of its files is not there.
        """
        files = {name: self.workspace.size(*self.path, checkpoint.name, name) for name in checkpoint.files}
        gone = [name for name, size in files.items() if size < 0]
        if gone:
            raise StageError(
                f"{self.workspace.display(*self.path, checkpoint.name)} lost {', '.join(gone)} while it was written",
                "See to it that one process at a time trains this run",
                code="checkpoint",
            )
        whole = {**vars(checkpoint), "files": files}
        self.workspace.write_json(whole, *self.path, checkpoint.name, CHECKPOINT_MANIFEST)
        self.prune()

    def prune(self) -> None:
        """Take away what is neither among the newest nor among the best, and what was never committed."""
        committed = self.committed()
        kept = {checkpoint.name for checkpoint in worth_keeping(committed, self.config)}
        for name in self.workspace.folders(*self.path):
            if name not in kept:
                # First what makes it count: killed in between, what is left is no checkpoint.
                self.workspace.delete(*self.path, name, CHECKPOINT_MANIFEST)
                self.workspace.delete(*self.path, name)

    def read(self, checkpoint: Checkpoint, name: str, *, device: Any = "cpu") -> dict[str, Any]:
        """Content of a file of a checkpoint."""
        import torch

        with self.workspace.local_file(*self.path, checkpoint.name, name) as path:
            return torch.load(path, map_location=device, weights_only=True)


def worth_keeping(committed: Sequence[Checkpoint], config: PretrainConfig) -> list[Checkpoint]:
    """The newest `keep_checkpoints`, and the best `keep_best` by `best_by`; of equally good ones the newer."""
    sign = -1.0 if config.best_by in LARGER_IS_BETTER else 1.0
    rated = [c for c in committed if math.isfinite(c.metrics.get(config.best_by, math.nan))]
    best = sorted(rated, key=lambda c: (sign * c.metrics[config.best_by], -c.step))[: config.keep_best]
    newest = sorted(committed, key=lambda c: c.step)[-config.keep_checkpoints :]
    names = {c.name for c in (*best, *newest)}
    return [c for c in committed if c.name in names]


def folder_of(step: int) -> str:
    """Name of a checkpoint's folder; sorted by name is sorted by step."""
    return f"step-{step:09d}"


def share_of(rank: int, world: int) -> str:
    """Name of the file with a worker's share of the key memory."""
    return f"memory-{rank:05d}-of-{world:05d}.pt"
