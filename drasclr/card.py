"""Cards and weight files from others: types and sizes are checked before memory is taken."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

FORMAT = "drasclr-weights-1"
#: A card has about a kilobyte.
MAX_BYTES = 1_000_000
#: More experts than locations of the published atlas have no meaning.
MAX_EXPERTS = 1024
_CONDITIONING, _NORM = ("experts", "concat", "none"), ("batch", "group")
_FLOATS = ("F64", "F32", "F16", "BF16")


def parsed_card(data: bytes, *, name: str) -> dict[str, Any]:
    """The card in a file's content.

    Args:
        data: of the file.
        name: of the file, for messages.

    Raises:
        ValueError: no JSON, of another format, or a value of a wrong type.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} is no card: it has {len(data):,} bytes, more than {MAX_BYTES:,}")
    try:
        card = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: {str(error)[:200]}") from None
    if not isinstance(card, dict):
        raise ValueError(f"{name} is no card: it holds a {type(card).__name__}, not names with values")
    if card.get("format") != FORMAT:
        raise ValueError(f"{name} has format {str(card.get('format'))[:80]!r}; this version reads {FORMAT!r}")
    wrong = [key for key, right in _checks(card).items() if not right]
    if wrong:
        raise ValueError(f"{name} has values of a wrong type or size: {', '.join(wrong)}")
    return card


def _checks(card: Mapping[str, Any]) -> dict[str, bool]:
    kind = card.get("encoder")
    kind = kind if isinstance(kind, Mapping) else {}
    window, spacing, size = card.get("hu_window"), card.get("spacing_mm"), card.get("patch_size")
    return {
        "encoder.experts": _whole(kind.get("experts")) and 1 <= kind["experts"] <= MAX_EXPERTS,
        "encoder.conditioning": _one_of(kind.get("conditioning"), _CONDITIONING),
        "encoder.norm": _one_of(kind.get("norm"), _NORM),
        "atlas_hash": isinstance(card.get("atlas_hash"), str | None),
        "patch_size": size is None or (_whole(size) and size > 0),
        "spacing_mm": spacing is None or (_number(spacing) and spacing > 0),
        "hu_window": window is None
        or (
            isinstance(window, list)
            and len(window) == 2
            and all(map(_number, window))
            and window[0] < window[1]
        ),
    }


def _one_of(value: Any, known: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in known


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return (_whole(value) and abs(value) < 1e15) or (isinstance(value, float) and math.isfinite(value))


def check_sizes(path: Path, model: nn.Module) -> None:
    """Compare names, shapes and kinds of a weight file's tensors with a model's, by the file's header alone.

    Args:
        path: a safetensors file.
        model: may be on the device `meta`, where it takes no memory.

    Raises:
        ValueError: they differ.
        safetensors.SafetensorError: the file is damaged.
    """
    wanted = model.state_dict()
    with safetensors.safe_open(path, framework="pt") as stored:
        names = set(stored.keys())
        problems = [f"no {name}" for name in wanted if name not in names]
        problems += [f"unknown {name[:80]}" for name in sorted(names) if name not in wanted]
        for name in sorted(names & set(wanted)):
            part, tensor = stored.get_slice(name), wanted[name]
            shape, kind = tuple(part.get_shape()), part.get_dtype()
            if shape != tuple(tensor.shape):
                problems.append(f"{name} is {shape}, not {tuple(tensor.shape)}")
            elif (kind in _FLOATS) != tensor.is_floating_point() or kind not in (*_FLOATS, "I64"):
                problems.append(f"{name} is of type {kind}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"it does not fit its card: {'; '.join(problems[:3])}{more}")


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a tensor holds NaN or infinity."""
    wrong = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if wrong:
        raise ValueError(f"it holds values that are not finite, in {wrong[0]}: the training diverged")
