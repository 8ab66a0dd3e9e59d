"""TODO."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.storage.layout import CARD_FILE, PRETRAIN, WEIGHTS_FILE
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from drasclr.encoder import Encoder


def load_encoder(workspace: Workspace, run: str, *, hu_window: tuple[int, int]) -> Encoder:
    """A run's pretrained encoder.

    Raises:
        StageError: there is none, or it was trained on another atlas or window.
    """
    from ctplatform.dataset.atlas import read_atlas
    from drasclr import weights

    with tempfile.TemporaryDirectory() as folder:
        for name in (WEIGHTS_FILE, CARD_FILE):
            (Path(folder) / name).write_bytes(workspace.read_bytes(PRETRAIN, run, name))
        try:
            return weights.load(folder, atlas=read_atlas(workspace), hu_window=hu_window)
        except ValueError as error:
            problem = str(error).rstrip(".")
    raise StageError(f"weights of run {run}: {problem}", "Pretrain in this workspace", code="weights")


def random_encoder(workspace: Workspace, recipe: Recipe) -> Encoder:
    """An untrained encoder whose normalisation statistics fit the data: otherwise its features would be arbitrary in
    scale, and the control unfairly weak."""
    import torch

    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.training.feed import Feed
    from ctplatform.training.model import calibrate
    from ctplatform.training.runs import training_scans
    from drasclr.encoder import Encoder

    config, atlas = recipe.pretrain, read_atlas(workspace)
    torch.manual_seed(config.seed + 1)
    encoder = Encoder(**config.encoder.model_dump())
    feed = Feed(
        workspace,
        training_scans(workspace, recipe),
        atlas,
        scans_per_batch=config.scans_per_batch,
        locations_per_batch=config.locations_per_batch,
        seed=config.seed,
    )
    calibrate(encoder, feed, atlas, hu_window=recipe.prepare.hu_window)
    return encoder
