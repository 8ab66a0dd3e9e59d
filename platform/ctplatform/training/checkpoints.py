"""Checkpoints of a training run: written by all workers, committed by one small file, kept by age and by metric.

A checkpoint is a folder below the run's. It is valid once it holds `checkpoint.json`, which is written last and
atomically, and names every file with its size. What a killed run left incomplete is never read, and is deleted with the
next commit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, BinaryIO

from ctplatform.config.training import PretrainConfig
from ctplatform.errors import StageError
from ctplatform.storage.layout import CHECKPOINT_MANIFEST, CHECKPOINT_STATE, CHECKPOINTS
from ctplatform.storage.workspace import Workspace
from ctplatform.training.finiteness import all_finite

logger = logging.getLogger(__name__)
#: Metrics of which larger values are better; of all others smaller ones are.
LARGER_IS_BETTER = ("top1", "effective_rank")


@dataclass(frozen=True)
class Checkpoint:
    """The content of `checkpoint.json`.

    Attributes:
        name: of the checkpoint's folder.
        step: optimiser steps made.
        epoch: complete passes over the data.
        step_of_epoch: steps made of the next pass.
        workers: number of workers that wrote it.
        metrics: the line that was logged last before it.
        files: name -> bytes.
        shares: file with a part of the key memory -> the locations in it.
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
        workspace: holds the run.
        folders: of the run in the workspace.
        config: `keep_checkpoints`, `keep_best` and `best_by` select those that are kept.
    """

    def __init__(self, workspace: Workspace, *folders: str, config: PretrainConfig) -> None:
        self.workspace, self.path, self.config = workspace, (*folders, CHECKPOINTS), config

    def committed(self) -> list[Checkpoint]:
        """All that are committed, oldest first; one whose `checkpoint.json` is damaged is none."""
        found = []
        for name in self.workspace.folders(*self.path):
            place = (*self.path, name, CHECKPOINT_MANIFEST)
            if not self.workspace.exists(*place):
                continue
            try:
                found.append(self.workspace.read_record(Checkpoint, *place))
            except StageError as error:
                if error.code not in ("damaged", "missing"):  # missing: rank 0 has just deleted it
                    raise
                logger.warning("%s is damaged and skipped", self.workspace.display(*place))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def whole(self) -> Iterator[Checkpoint]:
        """The checkpoints whose files all have their recorded sizes, newest first."""
        for checkpoint in reversed(self.committed()):
            sizes = {
                name: self.workspace.size(*self.path, checkpoint.name, name) for name in checkpoint.files
            }
            if sizes == checkpoint.files:
                yield checkpoint
            else:
                logger.warning(
                    "%s is damaged and skipped", self.workspace.display(*self.path, checkpoint.name)
                )

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint."""
        return next(self.whole(), None)

    def newest_finite(self, device: Any = "cpu") -> tuple[Checkpoint, dict[str, Any]] | None:
        """The newest checkpoint that is whole and finite, and its state: what is not would diverge again and again.

        Raises:
            StageError: there is none, and one cannot be decoded, which need not be the file's fault.
        """
        undecoded: StageError | None = None
        for checkpoint in self.whole():
            try:
                state = self.read(checkpoint, CHECKPOINT_STATE, device=device)
            except StageError as error:
                if error.code not in ("damaged", "missing"):  # missing: rank 0 has just deleted it
                    raise
                logger.warning("%s is skipped: %s", checkpoint.name, error.problem)
                undecoded = error if error.code == "damaged" else undecoded
                continue
            if all_finite(state["model"], state["optimizer"]):
                return checkpoint, state
            logger.warning("checkpoint %s is not finite and skipped", checkpoint.name)
        if undecoded is not None:
            raise undecoded
        return None

    def write(self, step: int, name: str, state: Mapping[str, Any]) -> None:
        """Write one file of a checkpoint; each worker its own."""
        import torch

        def save(stream: BinaryIO) -> None:
            torch.save(state, stream)

        self.workspace.write_stream(save, *self.path, folder_of(step), name)

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint valid once all its files are written; then delete those that are not kept.

        Raises:
            StageError: one of its files is missing.
        """
        files = {name: self.workspace.size(*self.path, checkpoint.name, name) for name in checkpoint.files}
        missing = [name for name, size in files.items() if size < 0]
        if missing:
            raise StageError(
                f"{self.workspace.display(*self.path, checkpoint.name)} lost {', '.join(missing)} while it was written",
                "Make sure that only one process at a time trains this run",
                code="checkpoint",
            )
        manifest = {**vars(checkpoint), "files": files}
        self.workspace.write_json(manifest, *self.path, checkpoint.name, CHECKPOINT_MANIFEST)
        self.prune()

    def discard_after(self, step: int) -> None:
        """Delete checkpoints of later steps: a run that resumes from `step` writes them again, and until then they
        would count as the newest."""
        for checkpoint in self.committed():
            if checkpoint.step > step:
                self.workspace.delete(*self.path, checkpoint.name, CHECKPOINT_MANIFEST)
                self.workspace.delete(*self.path, checkpoint.name)

    def prune(self) -> None:
        """Delete what is neither among the newest nor among the best, and what was never committed."""
        committed = self.committed()
        kept = {checkpoint.name for checkpoint in retained(committed, self.config)}
        for name in self.workspace.folders(*self.path):
            if name not in kept:
                # The manifest first: if the process is killed in between, the rest is no valid checkpoint.
                self.workspace.delete(*self.path, name, CHECKPOINT_MANIFEST)
                self.workspace.delete(*self.path, name)

    def read(self, checkpoint: Checkpoint, name: str, *, device: Any = "cpu") -> dict[str, Any]:
        """Content of a file of a checkpoint.

        Raises:
            StageError: it is missing, or cannot be decoded.
        """
        import torch

        place = (*self.path, checkpoint.name, name)
        with self.workspace.local_file(*place) as path:
            try:
                content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            except (RuntimeError, EOFError, ValueError, UnpicklingError) as error:
                raise StageError(
                    f"{self.workspace.display(*place)} is damaged: {type(error).__name__}",
                    f"Delete the folder {checkpoint.name}; the run resumes from the checkpoint before it, or begins",
                    code="damaged",
                ) from error
        return content


def retained(committed: Sequence[Checkpoint], config: PretrainConfig) -> list[Checkpoint]:
    """The newest `keep_checkpoints`, and the best `keep_best` by `best_by`; of equally good ones the newer."""
    sign = -1.0 if config.best_by in LARGER_IS_BETTER else 1.0
    rated = [c for c in committed if math.isfinite(c.metrics.get(config.best_by, math.nan))]
    best = sorted(rated, key=lambda c: (sign * c.metrics[config.best_by], -c.step))[: config.keep_best]
    newest = sorted(committed, key=lambda c: c.step)[-config.keep_checkpoints :]
    names = {c.name for c in (*best, *newest)}
    return [c for c in committed if c.name in names]


def folder_of(step: int) -> str:
    """Name of a checkpoint's folder; the order of the names is that of the steps."""
    return f"step-{step:09d}"


def memory_file(rank: int, world: int) -> str:
    """Name of the file with the part of the key memory that a worker holds."""
    return f"memory-{rank:05d}-of-{world:05d}.pt"
