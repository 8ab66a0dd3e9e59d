"""Encoders of a workspace: the pretrained one of a run, and a random one as control."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.storage import layout
from ctplatform.storage.layout import CARD_FILE, PRETRAIN, WEIGHTS_FILE, WEIGHTS_FOLDER
from ctplatform.storage.workspace import Workspace
from ctplatform.training.runs import training_scans

if TYPE_CHECKING:
    from drasclr.encoder import Encoder


def load_encoder(workspace: Workspace, run: str, *, hu_window: tuple[int, int]) -> Encoder:
    """A run's pretrained encoder.

    Raises:
        StageError: its files are missing, or it was trained on another atlas or HU window.
    """
    from drasclr import weights

    with tempfile.TemporaryDirectory() as folder:
        there = set(workspace.files(PRETRAIN, run))
        for name in WEIGHTS_FOLDER:
            # Older runs hold weights and card only; those two are always read, so that a missing one is an error.
            if name in there or name in (WEIGHTS_FILE, CARD_FILE):
                (Path(folder) / name).write_bytes(workspace.read_bytes(PRETRAIN, run, name))
        try:
            return weights.load(folder, atlas=read_atlas(workspace), hu_window=hu_window)
        except (FileNotFoundError, ValueError) as error:
            problem = str(error).rstrip(".")
    raise StageError(f"weights of run {run}: {problem}", "Pretrain in this workspace", code="weights")


def weights_digest(workspace: Workspace, run: str) -> str:
    """SHA-256 of a run's published weights."""
    return hashlib.sha256(workspace.read_bytes(*layout.weights(run))).hexdigest()


def random_encoder(workspace: Workspace, recipe: Recipe) -> Encoder:
    """An untrained encoder with the recipe's architecture and seed: the control.

    Its normalisation statistics are those of the data; otherwise the scale of its features would be arbitrary, and the
    control unfairly weak.
    """
    import torch

    from ctplatform.training.feed import Feed
    from ctplatform.training.publication import calibrate_norm
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
    calibrate_norm(encoder, feed, atlas, hu_window=recipe.prepare.hu_window)
    return encoder
