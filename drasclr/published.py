"""The import of the authors' checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from drasclr.card import FORMAT
from drasclr.encoder import FEATURES, PATCH_SIZE, Encoder

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
