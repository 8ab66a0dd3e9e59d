"""Weights with a card and their atlas, in one folder.

A folder, a repository on the Hugging Face Hub, or a prefix of an object store holds weights.safetensors, card.json,
README.md and, unless it is older, the atlas that the weights are conditioned on: atlas.json (the locations) and
lung_mask.nii.gz (the template that a scan's lungs are registered to), and representation.safetensors where patients'
vectors are standardised (mean and spread of the features at each location over the training scans). The card states
what the weights need to be used rightly: spacing_mm, hu_window, patch_size, atlas_hash, normalisation (how a location
becomes a coordinate), provenance, and under `files` the SHA-256 of the other files; anything else is kept as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from drasclr.atlas import Atlas
from drasclr.card import (
    ATLAS,
    CARD,
    FORMAT,
    README,
    REPRESENTATION,
    TEMPLATE,
    WEIGHTS,
    check_card,
    check_finite,
    check_sizes,
    parsed_card,
    readme,
)
from drasclr.encoder import FEATURES, Encoder
from drasclr.sources import Fetch, source

logger = logging.getLogger(__name__)


def files(
    encoder: Encoder, card: Mapping[str, Any], *, atlas: Atlas | None = None, template: bytes | None = None
) -> dict[str, bytes]:
    """The content of each file of a weights folder, by name, for any kind of storage.

    Args:
        encoder: the weights, in their own precision.
        card: plain values; "format", "encoder" and "files" are filled in here.
        atlas: the locations that the encoder is conditioned on.
        template: the atlas's lung mask, the bytes of a compressed NIfTI file.

    Raises:
        ValueError: the card names another atlas.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    content = {WEIGHTS: safetensors.torch.save(tensors, metadata={"format": "pt"})}
    if atlas is not None:
        check_card(card, atlas=atlas)
        content[ATLAS] = (json.dumps(atlas.to_json()) + "\n").encode()
    if template is not None:
        content[TEMPLATE] = template
    complete = {
        "format": FORMAT,
        "encoder": {
            "experts": encoder.experts,
            "conditioning": encoder.conditioning,
            "norm": encoder.norm,
            "features": FEATURES,
        },
        **{key: value for key, value in card.items() if key not in ("format", "encoder", "files")},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
    }
    return {
        **content,
        CARD: (json.dumps(complete, indent=2) + "\n").encode(),
        README: readme(complete).encode(),
    }


def save(
    folder: str | Path,
    encoder: Encoder,
    card: Mapping[str, Any],
    *,
    atlas: Atlas | None = None,
    template: bytes | None = None,
) -> None:
    """Write the files of `files` into a folder, each whole or not at all.

    Args:
        folder: is made if it is missing.
        encoder: the weights, in their own precision.
        card: plain values; "format", "encoder" and "files" are filled in here.
        atlas: the locations that the encoder is conditioned on.
        template: the atlas's lung mask, the bytes of a compressed NIfTI file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(encoder, card, atlas=atlas, template=template).items():
        temporary = folder / f".tmp-{uuid.uuid4().hex}"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)


def load(
    path: str | Path,
    *,
    atlas: Atlas | str | Path | None = None,
    hu_window: Sequence[float] | None = None,
    spacing_mm: float | None = None,
) -> Encoder:
    """An encoder in evaluation mode: its card in `card`, its atlas in `atlas` and `template`, and in `representation`
    the statistics of the training scans, where there are any.

    Weights that were saved without their atlas are loaded with `atlas` None, and a logged warning says what they
    cannot do.

    Args:
        path: folder, weights.safetensors file, Hugging Face Hub id ("hf://owner/name", "hf://owner/name@revision"), or
            the URI of a prefix in an object store (s3://, gs://, with the store's options after `?`).
        atlas: check that the weights were trained with this atlas; or the folder of one (atlas.json and
            lung_mask.nii.gz), which weights without an atlas get.
        hu_window: check that they were trained with this window.
        spacing_mm: check that they were trained at this patch spacing.

    Raises:
        FileNotFoundError: there are no weights there.
        ValueError: not our format, damaged, or trained with another atlas, window or spacing.
    """
    template: bytes | None = None
    if isinstance(atlas, str | Path):
        atlas, template = _atlas_folder(Path(atlas))
    with source(path) as fetch:
        card = _read_card(fetch, path)
        check_card(card, atlas=atlas, hu_window=hu_window, spacing_mm=spacing_mm)
        encoder = _read_weights(fetch, path, card)
        own_atlas = _stated(fetch, path, card, ATLAS)
        own_template = _stated(fetch, path, card, TEMPLATE)
        representation = _representation(fetch, path, card)
    if own_atlas is not None:
        own = Atlas.from_json(json.loads(own_atlas))
        check_card(card, atlas=own)
        atlas = own if atlas is None else atlas
    if atlas is None:
        logger.warning(
            "%s was saved without its atlas: the encoder takes patches and locations, but it cannot embed a scan, "
            "since where its patches lie is not stated; give the atlas's folder as `atlas`, for a training run of "
            "this project the folder atlas/ of its workspace",
            path,
        )
    encoder.card, encoder.atlas = card, atlas
    encoder.template = template if own_template is None else own_template
    encoder.representation = representation
    return encoder.eval()


def _read_card(fetch: Fetch, path: str | Path) -> dict[str, Any]:
    try:
        return parsed_card(fetch(CARD).read_bytes(), name=f"{CARD} of {path}")
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(f"{path} has no {CARD}; weights cannot be used without their card") from None


def _read_weights(fetch: Fetch, path: str | Path, card: Mapping[str, Any]) -> Encoder:
    kind = card["encoder"]
    try:
        file = fetch(WEIGHTS)
        _check_digest(file, path, card)
        with torch.device("meta"):
            check_sizes(file, Encoder(kind["experts"], kind["conditioning"], norm=kind["norm"]))
        tensors = safetensors.torch.load_file(file)
        check_finite(tensors)
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(f"{path} has no {WEIGHTS}") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{WEIGHTS} of {path} is damaged: {error}") from None
    except ValueError as error:
        raise ValueError(f"{WEIGHTS} of {path}: {error}") from None
    encoder = Encoder(kind["experts"], kind["conditioning"], norm=kind["norm"])
    first = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), None)
    if first is not None:
        encoder.to(first.dtype)  # loading would otherwise round to single precision
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{WEIGHTS} of {path} does not fit its card: {error}") from None
    return encoder


def _stated(fetch: Fetch, path: str | Path, card: Mapping[str, Any], name: str) -> bytes | None:
    """Content of a file that the card states; None if it states none of this name."""
    if name not in card.get("files", {}):
        return None
    try:
        file = fetch(name)
        _check_digest(file, path, card)
        return file.read_bytes()
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(
            f"{path} has no {name}, which its {CARD} states; copy the whole folder again"
        ) from None


def _representation(fetch: Fetch, path: str | Path, card: Mapping[str, Any]) -> bytes | None:
    """Statistics of the training scans; they are written after the card, which therefore may not state them."""
    if REPRESENTATION in card.get("files", {}):
        return _stated(fetch, path, card, REPRESENTATION)
    if "pooling" not in card:  # a folder from before there were statistics
        return None
    try:
        return fetch(REPRESENTATION).read_bytes()
    except FileNotFoundError:
        return None


def _check_digest(file: Path, path: str | Path, card: Mapping[str, Any]) -> None:
    stated = card.get("files", {}).get(file.name)
    if stated is None:
        return
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != stated:
        raise ValueError(
            f"{file.name} of {path} is damaged or of other weights: its SHA-256 is {found[:12]}..., {CARD} states "
            f"{stated[:12]}...; copy the whole folder again"
        )


def _atlas_folder(folder: Path) -> tuple[Atlas, bytes]:
    try:
        return Atlas.load(folder), (folder / TEMPLATE).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} is no atlas: it has no {Path(str(error.filename)).name}; an atlas is {ATLAS} with {TEMPLATE}"
        ) from None
