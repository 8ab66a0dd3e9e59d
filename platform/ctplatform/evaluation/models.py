"""TODO."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ctplatform.evaluation.cells import Cell, Shared
from ctplatform.evaluation.initialisations import FINETUNE
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task

if TYPE_CHECKING:
    from ctplatform.evaluation.finetune import EndToEnd, PatchPool
    from drasclr.encoder import Encoder


def patch_pool(shared: Shared) -> PatchPool:
    """The patches that end-to-end training reads; what a process has read, it keeps."""
    import torch

    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.evaluation.finetune import PatchPool

    torch.set_num_threads(shared.threads)
    return PatchPool(
        shared.workspace,
        read_atlas(shared.workspace).coordinates_N3,
        scans=shared.scans,
        size=max(shared.scratch.pool, shared.scratch.locations),
        hu_window=shared.hu_window,
        device=shared.device,
    )


def end_to_end(
    shared: Shared, cell: Cell, *, steps: int, lr: float | None = None, weight_decay: float | None = None
) -> EndToEnd:
    """The untrained model of a cell; `lr` and `weight_decay` instead of the recipe's."""
    from ctplatform.evaluation.finetune import EndToEnd

    return EndToEnd(
        get_task(cell.task),
        encoder=shared.encoder,
        config=shared.scratch,
        steps=steps,
        seed=cell.seed,
        pretrained=pretrained_of(shared) if cell.initialisation == FINETUNE else None,
        tuning=shared.finetune,
        lr=lr,
        weight_decay=weight_decay,
    )


def pretrained_of(shared: Shared) -> Encoder:
    """The run's encoder; whoever trains it copies it first."""
    return _pretrained(shared.workspace, shared.run, shared.hu_window, shared.weights)


@lru_cache(maxsize=1)
def _pretrained(workspace: Workspace, run: str, hu_window: tuple[int, int], digest: str) -> Encoder:
    """Read once a worker process; `digest` changes with the weights."""
    from ctplatform.inference.encoders import load_encoder

    return load_encoder(workspace, run, hu_window=hu_window)
