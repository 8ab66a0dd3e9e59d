"""End-to-end training of a sweep: the encoders that it starts from, its settings, and the models built from both."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from ctplatform.config.evaluation import FinetuneConfig, ScratchConfig, SearchConfig
from ctplatform.config.training import EncoderConfig
from ctplatform.evaluation.initialisations import FINETUNE
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.task import Task

if TYPE_CHECKING:
    from ctplatform.evaluation.finetune import EndToEnd
    from ctplatform.evaluation.patch_pool import PatchPool
    from drasclr.encoder import Encoder


@dataclass(frozen=True)
class Encoders:
    """Encoders that end-to-end training starts from: a pretraining run's, or one of random weights.

    Args:
        workspace: holds the run's weights.
        run: the pretraining run.
        config: architecture.
        hu_window: HU that are mapped to -1 and 1.
        digest: of the run's weights; empty where no cell is fine-tuned.
    """

    workspace: Workspace
    run: str
    config: EncoderConfig
    hu_window: tuple[int, int]
    digest: str = ""

    def pretrained(self) -> Encoder:
        """The run's encoder, read once a process. It is shared: copy it before training."""
        return _pretrained(self.workspace, self.run, self.hu_window, self.digest)

    def initial(self, initialisation: str) -> Encoder:
        """A new encoder to train: a copy of the run's, or random weights from torch's generator."""
        from drasclr.encoder import Encoder

        if initialisation == FINETUNE:
            return copy.deepcopy(self.pretrained())
        return Encoder(**self.config.model_dump())


@dataclass(frozen=True)
class Training:
    """Settings of end-to-end training, the same in all cells of a sweep.

    Args:
        encoders: what it starts from.
        scratch: learning rate, weight decay, steps and batches from random weights; steps and batches of both starts.
        finetune: learning rates, weight decay and early stopping from pretrained weights.
        search: how hyper-parameters are searched inside a cell.
        device: torch device.
        threads: CPU threads of torch.
    """

    encoders: Encoders
    scratch: ScratchConfig
    finetune: FinetuneConfig
    search: SearchConfig = field(default_factory=SearchConfig)
    device: str = "cpu"
    threads: int = 1

    def config(self, initialisation: str) -> ScratchConfig | FinetuneConfig:
        """The section with an initialisation's learning rate and weight decay."""
        return self.finetune if initialisation == FINETUNE else self.scratch

    def steps(self, subjects: int) -> int:
        """Optimiser steps of every label fraction: as many as all of a task's training subjects need."""
        return training_steps(self.scratch, subjects)


def training_steps(config: ScratchConfig, subjects: int) -> int:
    """Optimiser steps of `epochs` passes over these subjects, `max_steps` at most."""
    steps = config.epochs * -(-subjects // config.subjects_per_batch)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def patch_pool(training: Training, scans: Mapping[str, tuple[str, ...]]) -> PatchPool:
    """The patches that end-to-end training reads; what a process has read, it keeps.

    Args:
        training: settings.
        scans: subject -> its usable scans.
    """
    import torch

    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.evaluation.patch_pool import PatchPool

    torch.set_num_threads(training.threads)
    encoders, config = training.encoders, training.scratch
    return PatchPool(
        encoders.workspace,
        read_atlas(encoders.workspace).coordinates_N3,
        scans=scans,
        size=max(config.pool, config.locations),
        hu_window=encoders.hu_window,
        device=training.device,
    )


def end_to_end(
    task: Task,
    training: Training,
    *,
    initialisation: str,
    steps: int,
    seed: int,
    lr: float | None = None,
    weight_decay: float | None = None,
) -> EndToEnd:
    """An untrained model; `lr` and `weight_decay` instead of the recipe's."""
    from ctplatform.evaluation.finetune import EndToEnd

    return EndToEnd(
        task,
        encoder=training.encoders.config,
        config=training.scratch,
        steps=steps,
        seed=seed,
        pretrained=training.encoders.pretrained() if initialisation == FINETUNE else None,
        tuning=training.finetune,
        lr=lr,
        weight_decay=weight_decay,
    )


@lru_cache(maxsize=1)
def _pretrained(workspace: Workspace, run: str, hu_window: tuple[int, int], digest: str) -> Encoder:
    """`digest` changes with the weights, and so what is cached."""
    from ctplatform.inference.encoders import load_encoder

    return load_encoder(workspace, run, hu_window=hu_window)
