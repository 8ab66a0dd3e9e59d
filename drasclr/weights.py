"""Weights with a card, and the import of the authors' checkpoints.

A folder, or a repository on the Hugging Face Hub, holds weights.safetensors, card.json and README.md. The card states
what the weights need to be used rightly: spacing_mm, hu_window, patch_size, atlas_hash, normalisation (how a location
becomes a coordinate) and provenance; anything else in it is kept as it is.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from drasclr.atlas import Atlas
from drasclr.encoder import FEATURES, LAYERS, PATCH_SIZE, Encoder

FORMAT = "drasclr-weights-1"
WEIGHTS, CARD, README = "weights.safetensors", "card.json", "README.md"
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
# The published state dict names its 13 layers by block.
_PUBLISHED_LAYERS = (
    ("conv1", "bn1"),
    ("conv2", "bn2"),
    *((f"downsample{b}.conv{i}", f"downsample{b}.bn{i}") for b in (1, 2, 3) for i in (1, 2, 3)),
    ("conv3", "bn3"),
    ("conv4", "bn4"),
)
_PUBLISHED_CARD = {
    "spacing_mm": 1.0,
    "hu_window": [-1024, 240],
    "patch_size": PATCH_SIZE,
    "normalisation": {
        "patch": "(clip(hu) - low) / ((high - low) / 2) - 1",
        "location": "corner / max * 2 - 1",
    },
}


def files(encoder: Encoder, card: Mapping[str, Any]) -> dict[str, bytes]:
    """The content of each file of a weights folder, by name, for any kind of storage."""
    complete = {
        "format": FORMAT,
        "encoder": {
            "experts": encoder.experts,
            "conditioning": encoder.conditioning,
            "norm": encoder.norm,
            "features": FEATURES,
        },
        **{key: value for key, value in card.items() if key not in ("format", "encoder")},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    return {
        WEIGHTS: safetensors.torch.save(tensors, metadata={"format": "pt"}),
        CARD: (json.dumps(complete, indent=2) + "\n").encode(),
        README: _readme(complete).encode(),
    }


def save(folder: str | Path, encoder: Encoder, card: Mapping[str, Any]) -> None:
    """Write weights.safetensors, card.json and README.md into a folder, each whole or not at all.

    Args:
        folder: is made if it is missing.
        encoder: the weights, in their own precision.
        card: plain values; "format" and "encoder" are filled in here.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(encoder, card).items():
        temporary = folder / f".tmp-{uuid.uuid4().hex}"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)


def load(
    path: str | Path,
    *,
    atlas: Atlas | None = None,
    hu_window: Sequence[float] | None = None,
    spacing_mm: float | None = None,
) -> Encoder:
    """An encoder in evaluation mode, with its card in `encoder.card`.

    Args:
        path: folder, weights.safetensors file, or Hugging Face Hub id ("owner/name", "owner/name@revision").
        atlas: check that the weights were trained with this atlas.
        hu_window: check that they were trained with this window.
        spacing_mm: check that they were trained at this patch spacing.

    Raises:
        FileNotFoundError: there are no weights there.
        ValueError: not our format, damaged, or trained with another atlas, window or spacing.
    """
    folder = _folder(path)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} has no {CARD}; weights cannot be used without their card"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / CARD} is damaged: {error}") from None
    if card.get("format") != FORMAT:
        raise ValueError(f"{folder / CARD} has format {card.get('format')!r}; this version reads {FORMAT!r}")
    check_card(card, atlas=atlas, hu_window=hu_window, spacing_mm=spacing_mm)
    kind = card["encoder"]
    encoder = Encoder(kind["experts"], kind["conditioning"], norm=kind["norm"])
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from None
    first = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), None)
    if first is not None:
        encoder.to(first.dtype)  # loading would otherwise round to single precision
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit its card: {error}") from None
    encoder.card = card
    return encoder.eval()


def check_card(
    card: Mapping[str, Any],
    *,
    atlas: Atlas | None = None,
    hu_window: Sequence[float] | None = None,
    spacing_mm: float | None = None,
) -> None:
    """Whether weights with this card may be used so; what the card does not state is not checked.

    Raises:
        ValueError: naming everything that does not fit.
    """
    problems = []
    if atlas is not None:
        if card.get("atlas_hash") not in (None, atlas.hash):
            problems.append(
                f"they were trained with atlas {card['atlas_hash'][:12]}, this is {atlas.hash[:12]}"
            )
        if card.get("patch_size") not in (None, atlas.patch_size):
            problems.append(
                f"they take patches of {card['patch_size']} voxels, this atlas has {atlas.patch_size}"
            )
    if (
        hu_window is not None
        and card.get("hu_window") is not None
        and list(card["hu_window"]) != list(hu_window)
    ):
        problems.append(f"they were trained with HU window {list(card['hu_window'])}, not {list(hu_window)}")
    if spacing_mm is not None and card.get("spacing_mm") not in (None, spacing_mm):
        problems.append(f"they were trained at {card['spacing_mm']} mm, not {spacing_mm} mm")
    if problems:
        raise ValueError(
            "these weights do not fit: " + "; ".join(problems) + ". Use what the card names, or other weights"
        )


def import_published(path: str | Path) -> Encoder:
    """The query encoder of a checkpoint of the authors' code (a torch file; nothing in it is executed).

    Features and projections equal the published computation. The encoder is in evaluation mode; its card holds the
    published settings and the epoch.

    Raises:
        ValueError: not such a checkpoint, or one of another architecture.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch passes on any exception of its unpickler
        raise ValueError(
            f"{path} is no torch checkpoint that can be read without executing it: {error}"
        ) from error
    if not isinstance(checkpoint, Mapping) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} holds no 'state_dict'; a checkpoint of the authors' code does")
    published = _query_state(checkpoint["state_dict"], path)
    try:
        state = _translate(published)
    except KeyError as error:
        raise ValueError(
            f"{path} lacks {error.args[0]!r}; only the encoder with its projection MLP is read"
        ) from None
    experts = len(state["layers.0.conv.weight"])
    encoder = Encoder(experts).to(state["layers.0.conv.weight"].dtype)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} has another architecture than the published one: {error}") from None
    encoder.card = {
        "format": FORMAT,
        "encoder": {"experts": experts, "conditioning": "experts", "norm": "batch", "features": FEATURES},
        **_PUBLISHED_CARD,
        "provenance": {"source": "published checkpoint", "epoch": checkpoint.get("epoch")},
    }
    return encoder.eval()


def _query_state(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    prefix = re.compile(r"^(module\.)?encoder_q\.")
    query = {prefix.sub("", name): tensor for name, tensor in state.items() if prefix.match(name)}
    if not query:
        raise ValueError(
            f"{path} has no 'module.encoder_q.*' weights; the first key is {next(iter(state), None)!r}"
        )
    return query


def _translate(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    for position, (conv, norm) in enumerate(_PUBLISHED_LAYERS):
        layer = f"layers.{position}"
        # [E, Cout, Cin, 3, 3, 3] -> input channels last
        state[f"{layer}.conv.weight"] = published[f"{conv}.weight"].permute(0, 1, 3, 4, 5, 2).contiguous()
        state[f"{layer}.conv.bias"] = published[f"{conv}.bias"]
        for kind in ("weight", "bias"):
            state[f"{layer}.conv.routing.{kind}"] = published[f"{conv}._routing_fn.fc.{kind}"]
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            state[f"{layer}.norm.{kind}"] = published[f"{norm}.{kind}"]
    for index in (0, 2):
        for kind in ("weight", "bias"):
            state[f"head.{index}.{kind}"] = published[f"fc.{index}.{kind}"]
    return state


def _folder(path: str | Path) -> Path:
    local = Path(path)
    if local.is_dir():
        return local
    if local.is_file():
        return local.parent
    if not HUB_ID.match(str(path)):
        raise FileNotFoundError(f"there is no folder {path}, and it is no Hub id of the form owner/name")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise FileNotFoundError(
            f"there is no folder {path}; to look for it on the Hugging Face Hub, install huggingface_hub "
            "(pip install 'drasclr[hub]')"
        ) from None
    name, _, revision = str(path).partition("@")
    try:
        folder = Path(hf_hub_download(name, CARD, revision=revision or None)).parent
        # The folder of a snapshot is named by its commit: weights of the same one, whatever is pushed meanwhile.
        hf_hub_download(name, WEIGHTS, revision=folder.name)
    except (OSError, ValueError) as error:  # what the Hub's client raises is one of the two
        raise FileNotFoundError(f"{path} could not be loaded from the Hugging Face Hub: {error}") from error
    return folder


def _readme(card: Mapping[str, Any]) -> str:
    kind = card["encoder"]
    lines = [
        "---",
        "library_name: drasclr",
        "tags: [medical, computed-tomography, lung, self-supervised]",
        "---",
        "# DrasCLR encoder",
        "",
        f"{len(LAYERS)} convolutions, conditioning `{kind['conditioning']}` ({kind['experts']} experts), normalisation "
        f"`{kind['norm']}`, {kind['features']} features a patch.",
        "",
        "```python",
        "import drasclr",
        "encoder = drasclr.load(FOLDER_OR_HUB_ID)",
        "features = encoder(patches_BCDHW, locations_B3)",
        "```",
        "",
        "What the patches and locations must be like is in `card.json`.",
        "",
    ]
    return "\n".join(lines)
