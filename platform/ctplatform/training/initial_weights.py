"""Continued pretraining: the weights that a run starts from, checked against its recipe and kept with the run."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.storage import layout
from ctplatform.storage.layout import CARD_FILE, WEIGHTS_FILE
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from drasclr.atlas import Atlas
    from drasclr.encoder import Encoder


def read_given(source: str) -> Encoder:
    """The encoder of a weights folder, Hub id or URI, or of a checkpoint of the authors' code.

    Raises:
        StageError: there is none, or it cannot be read.
    """
    import drasclr
    from drasclr.published import import_published

    path = Path(source).expanduser()
    try:
        if path.is_file() and path.suffix != ".safetensors":
            return import_published(path)
        return drasclr.load(str(path) if path.exists() else source)
    except (FileNotFoundError, ValueError) as error:
        raise StageError(
            f"pretrain.init: {error}",
            "Give a folder with weights.safetensors and card.json, a Hub id, or a published checkpoint",
            code="weights",
        ) from None


def keep_initial(workspace: Workspace, recipe: Recipe, run: str) -> None:
    """Check the recipe's initial weights and copy them into the run, where all workers read them; done once a run.

    Raises:
        StageError: they cannot be read, do not fit the recipe, or are others than those that the run started from.
    """
    from drasclr import weights

    source = recipe.pretrain.init
    if source is None:
        return
    encoder = read_given(source)
    _check(encoder, recipe)
    content = weights.files(encoder, encoder.card)
    digest = hashlib.sha256(content[WEIGHTS_FILE]).hexdigest()
    started = workspace.exists(*layout.initial_weights(run, CARD_FILE))
    if started and workspace.read_json(*layout.initial_weights(run, CARD_FILE))["sha256"] != digest:
        raise StageError(
            f"pretrain.init: {source} holds other weights than those that run {run} started from",
            "Keep changed weights in a folder of another name, and give that",
            code="weights",
        )
    if not started:
        kept, new = kept_and_new(encoder, read_atlas(workspace))
        card = {**encoder.card, "sha256": digest, "source": Path(source).name, "kept": kept, "new": new}
        workspace.write_bytes(content[WEIGHTS_FILE], *layout.initial_weights(run, WEIGHTS_FILE))
        workspace.write_bytes(json.dumps(card, indent=1).encode(), *layout.initial_weights(run, CARD_FILE))


def read_initial(workspace: Workspace, run: str) -> Encoder | None:
    """The encoder that a run starts from; None for random weights."""
    from drasclr import weights

    if not workspace.exists(*layout.initial_weights(run, CARD_FILE)):
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name in (WEIGHTS_FILE, CARD_FILE):
            data = workspace.read_bytes(*layout.initial_weights(run, name))
            if name == CARD_FILE:  # neither its other files are copied, nor has the atlas to be the same
                data = json.dumps({**json.loads(data), "files": {}, "atlas_hash": None}).encode()
            (Path(folder) / name).write_bytes(data)
        return weights.load(folder, atlas=read_atlas(workspace))


def initial_card(workspace: Workspace, run: str) -> dict[str, Any] | None:
    """Source, SHA-256, what is kept and what is new of a run's initial weights; None for random ones."""
    if not workspace.exists(*layout.initial_weights(run, CARD_FILE)):
        return None
    card = workspace.read_json(*layout.initial_weights(run, CARD_FILE))
    return {key: card.get(key) for key in ("source", "sha256", "kept", "new")}


def kept_and_new(encoder: Encoder, atlas: Atlas) -> tuple[list[str], list[str]]:
    """What continued pretraining takes over from given weights, and what starts anew."""
    kept = ["encoder with its routing by location", "projection head"]
    new = ["key memory", "optimiser and schedule", "normalisation statistics, at the end"]
    own = encoder.card.get("atlas_hash")
    if own == atlas.hash:
        kept.append("atlas")
    elif encoder.atlas is not None and np.array_equal(encoder.atlas.coordinates_N3, atlas.coordinates_N3):
        kept.append("locations of the atlas")
    elif own is None:
        new.append("atlas: the weights do not say which they were trained with")
    else:
        new.append(f"atlas {atlas.hash[:12]}: the routing was learned with {own[:12]}")
    return kept, new


def _check(encoder: Encoder, recipe: Recipe) -> None:
    from drasclr.card import check_card

    wanted, problems, remedies = recipe.pretrain.encoder, [], []
    for key in ("experts", "conditioning", "norm"):
        own, other = getattr(encoder, key), getattr(wanted, key)
        if own != other:
            problems.append(f"{key} {own}, and the recipe has {other}")
            remedies.append(f"pretrain.encoder.{key}={own}")
    window = encoder.card.get("hu_window")
    if window is not None and list(window) != list(recipe.prepare.hu_window):
        problems.append(f"HU window {list(window)}, and the recipe has {list(recipe.prepare.hu_window)}")
        remedies.append(f"prepare.hu_window={list(window)}")
    try:
        check_card(encoder.card, spacing_mm=1.0)
    except ValueError as error:
        raise StageError(f"pretrain.init: {error}", "Give weights of 1 mm patches", code="weights") from None
    if problems:
        raise StageError(
            f"pretrain.init: {recipe.pretrain.init} has {'; '.join(problems)}",
            "Set " + ", ".join(remedies),
            code="weights",
        )
