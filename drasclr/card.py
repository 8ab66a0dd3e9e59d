"""Cards of weights: read from others with types and sizes checked, compared with a use, and written for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from torch import Tensor, nn

from drasclr.encoder import LAYERS

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

FORMAT = "drasclr-weights-1"
WEIGHTS, CARD, README = "weights.safetensors", "card.json", "README.md"
ATLAS, TEMPLATE = "atlas.json", "lung_mask.nii.gz"
REPRESENTATION = "representation.safetensors"
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


def readme(card: Mapping[str, Any], *, results: Sequence[Mapping[str, Any]] = ()) -> str:
    """The model card for people, with the front matter that the Hugging Face Hub reads.

    Args:
        card: complete, as `files` writes it.
        results: scores on held-out subjects, one a task: task, metric, value, low, high (95% interval), labels,
            subjects.
    """
    kind, provenance = card["encoder"], card.get("provenance", {})
    licence = card.get("license", "unknown")
    lines = [
        "---",
        "library_name: drasclr",
        f"license: {licence}",
        "pipeline_tag: feature-extraction",
        "tags: [medical, computed-tomography, chest-ct, lung, self-supervised, contrastive-learning]",
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
    if ATLAS in card.get("files", {}):
        lines += [
            "The atlas lies beside the weights. Vectors of a whole scan:",
            "",
            "```python",
            "import drasclr",
            "from ctplatform.inference import embed_scan",
            'result = embed_scan("scan.nii.gz", drasclr.load(FOLDER_OR_HUB_ID))',
            "```",
            "",
        ]
    if isinstance(provenance, Mapping) and "subjects" in provenance:
        lines += [
            "## Training data",
            "",
            f"{provenance['scans']} scans of {provenance['subjects']} subjects, {provenance['steps']} optimiser steps; "
            "no held-out subject was seen.",
            "",
        ]
    if results:
        lines += [
            "## Scores on held-out subjects",
            "",
            "From the frozen encoder, mean over seeds with 95% bootstrap interval:",
            "",
            "| task | metric | value | 95% interval | labels | held-out subjects |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['task']} | {row['metric']} | {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} "
            f"| {row['labels']:.0f} | {row['subjects']:.0f} |"
            for row in results
        ]
        lines.append("")
    lines += ["## Licence", ""]
    lines += [
        "Not stated: the weights were derived from the training scans, whose terms apply. State it as `license` in "
        "card.json and in the lines at the top before publishing them."
        if licence == "unknown"
        else f"`{licence}`",
        "",
        "For research; no medical device.",
        "",
    ]
    return "\n".join(lines)
