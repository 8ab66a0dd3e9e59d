"""Files of a model folder, of any kind of model: written with digests, read with checks.

    head.safetensors  the model's numbers
    card.json         format, the task with its unit, what the features are, what it was trained on, how it was chosen,
                      its calibration, its scores on held-out subjects, and the SHA-256 of the other files
    encoder/          a network that was trained along: a weights folder, as `drasclr.load` takes it

Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from packaging.version import InvalidVersion, Version

from ctplatform import __version__
from ctplatform.errors import StageError
from ctplatform.storage.layout import CARD_FILE, ENCODER, HEAD_FILE
from ctplatform.storage.workspace import Workspace

HEAD, NETWORK, LABEL_MAP = "drasclr-head-1", "drasclr-network-1", "drasclr-label-map-1"
"""Formats: a head on frozen features, a network fine-tuned on labels of subjects, a model of label maps."""
FORMATS = (HEAD, NETWORK, LABEL_MAP)


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds.

    Args:
        place: folder or prefix of an object store.
        card: its card.
        tensors: its numbers by name.
        encoder: where the network lies that belongs to the model; empty where it takes features of given weights.
    """

    place: str
    card: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    encoder: str = ""


def model_files(
    format_: str,
    card: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    encoder: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """The content of each file, by path in the folder; the card last.

    Args:
        format_: one of `FORMATS`.
        card: without `format` and `files`.
        tensors: the model's numbers.
        encoder: the files of a weights folder.
    """
    import safetensors.numpy

    content = {HEAD_FILE: safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in tensors.items()})}
    content |= {f"{ENCODER}/{name}": data for name, data in (encoder or {}).items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    complete = {"format": format_, **card, "files": digests}
    return {**content, CARD_FILE: (json.dumps(complete, indent=2) + "\n").encode()}


def read_folder(folder: str | Path) -> ModelFolder:
    """The model of a folder or prefix of an object store.

    Raises:
        StageError: there is none, it is of another format or of a later version, or damaged.
    """
    import safetensors
    import safetensors.numpy

    place = Workspace(folder)
    if not place.exists(CARD_FILE) or not place.exists(HEAD_FILE):
        raise StageError(
            f"{folder} is no model folder: it lacks {CARD_FILE} or {HEAD_FILE}",
            "Give a folder below evaluation/<run>/models/ of a workspace in which `drasclr sweep` has run",
            code="no-model",
        )
    try:
        card, data = json.loads(place.read_bytes(CARD_FILE)), place.read_bytes(HEAD_FILE)
        if card.get("format") not in FORMATS:
            raise ValueError(
                f"its format is {card.get('format')!r}, this version reads {', '.join(map(repr, FORMATS))}"
            )
        if hashlib.sha256(data).hexdigest() != card["files"][HEAD_FILE]:
            raise ValueError(f"{HEAD_FILE} is not the one that {CARD_FILE} describes")
        tensors = safetensors.numpy.load(data)
        networks = [name for name in card["files"] if name.startswith(f"{ENCODER}/")]
        if missing := [name for name in networks if not place.exists(name)]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise damaged(folder, error) from None
    _check_software(card)
    base, _, options = str(folder).partition("?")
    encoder = f"{base.rstrip('/')}/{ENCODER}{'?' + options if options else ''}" if networks else ""
    return ModelFolder(str(folder), card, tensors, encoder)


def damaged(folder: str | Path, error: Exception) -> StageError:
    """The error of a folder that cannot be read."""
    return StageError(
        f"the model of {folder} cannot be read: {error}", "Copy the whole folder again", code="damaged-model"
    )


def _check_software(card: Mapping[str, Any]) -> None:
    """A later version may prepare scans in a way that this one does not know."""
    try:
        newer = Version(str(card.get("software", "0"))).release > Version(__version__).release
    except InvalidVersion:
        return
    if newer:
        raise StageError(
            f"the model was made by drasclr {card['software']}, and this is {__version__}",
            "Use that version, or a later one",
            code="misfit",
        )
