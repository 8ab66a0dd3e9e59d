"""Weights with a card and their atlas, and the import of the authors' checkpoints.

A folder, a repository on the Hugging Face Hub, or a prefix of an object store holds weights.safetensors, card.json,
README.md and, since version 0.2, the atlas that the weights are conditioned on: atlas.json (the locations) and
lung_mask.nii.gz (the template that a scan's lungs are registered to). The card states what the weights need to be used
rightly: spacing_mm, hu_window, patch_size, atlas_hash, normalisation (how a location becomes a coordinate), provenance,
and under `files` the SHA-256 of the other files; anything else in it is kept as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from drasclr.atlas import Atlas
from drasclr.card import FORMAT, check_finite, check_sizes, parsed_card
from drasclr.encoder import FEATURES, LAYERS, PATCH_SIZE, Encoder

logger = logging.getLogger(__name__)

WEIGHTS, CARD, README = "weights.safetensors", "card.json", "README.md"
ATLAS, TEMPLATE = "atlas.json", "lung_mask.nii.gz"
HUB_ID = re.compile(r"^hf://(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
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
    """An encoder in evaluation mode, with its card in `encoder.card`, and its atlas in `atlas` and `template`.

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
    with _source(path) as fetch:
        card = _read_card(fetch, path)
        check_card(card, atlas=atlas, hu_window=hu_window, spacing_mm=spacing_mm)
        encoder = _read_weights(fetch, path, card)
        own_atlas = _stated(fetch, path, card, ATLAS)
        own_template = _stated(fetch, path, card, TEMPLATE)
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


Fetch = Callable[[str], Path]
"""Name of a file of the weights -> where it lies on this machine. Raises FileNotFoundError: with `filename` if only
this file is missing, without it if the place cannot be reached."""


@contextlib.contextmanager
def _source(path: str | Path) -> Iterator[Fetch]:
    """Access to the files of weights, wherever they are, while the context lasts."""
    local = Path(path)
    match = HUB_ID.match(str(path))
    if local.is_dir() or local.is_file():
        folder = local if local.is_dir() else local.parent
        yield lambda name: folder / name
    elif match:
        yield _hub(str(path), match["name"], match["revision"])
    elif _URI.match(str(path)):
        with tempfile.TemporaryDirectory() as temporary:
            yield _object_store(str(path), Path(temporary))
    else:
        raise FileNotFoundError(
            f"there is no folder {path}; weights on the Hugging Face Hub are named hf://owner/name"
        )


def _hub(path: str, name: str, revision: str | None) -> Fetch:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise FileNotFoundError(
            f"there is no folder {path}; to look for it on the Hugging Face Hub, install huggingface_hub "
            "(pip install 'drasclr[hub]')"
        ) from None
    commit = revision

    def fetch(file: str) -> Path:
        nonlocal commit
        try:
            found = Path(hf_hub_download(name, file, revision=commit))
        except (OSError, ValueError) as error:  # what the Hub's client raises is one of the two
            raise FileNotFoundError(
                f"{path} could not be loaded from the Hugging Face Hub: {error}"
            ) from error
        # The folder of a snapshot is named by its commit: all files of the same one, whatever is pushed meanwhile.
        commit = found.parent.name
        return found

    return fetch


def _object_store(uri: str, folder: Path) -> Fetch:
    shown = re.sub(r"(?<=://)[^/@]*@", "", uri.partition("?")[0])  # without credentials and options
    try:
        from pyarrow import fs
    except ImportError:
        raise FileNotFoundError(f"to read {shown}, install pyarrow (pip install pyarrow)") from None
    try:
        store, root = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{shown} cannot be opened: {error}") from None

    def fetch(file: str) -> Path:
        target = folder / file
        try:
            with store.open_input_stream(f"{root.rstrip('/')}/{file}", compression=None) as stream:
                target.write_bytes(stream.read())
        except FileNotFoundError:
            raise FileNotFoundError(2, "no such file", file) from None
        except OSError as error:
            raise FileNotFoundError(f"{shown}/{file} cannot be read: {error}") from error
        return target

    return fetch


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
