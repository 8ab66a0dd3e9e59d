"""The fine-tuned network of a trial with all labels: from the end of the trial until the models are kept, as files.

`evaluation/<run>/networks/<cell>/` has the same files as a model folder. It is deleted when the model is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.initialisations import FINETUNE
from ctplatform.inference.kept_model import LOCATIONS
from ctplatform.inference.model_folder import NETWORK, model_files
from ctplatform.metrics.scores import Targets
from ctplatform.storage import layout
from ctplatform.storage.layout import CARD_FILE, ENCODER, HEAD_FILE, WEIGHTS_FILE, WEIGHTS_FOLDER
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from ctplatform.evaluation.finetune import EndToEnd
    from ctplatform.evaluation.patch_pool import PatchPool
    from drasclr.encoder import Encoder

ALL_LABELS, SEED = 1.0, 0
OUT_OF_FOLD = "out_of_fold_N"


@dataclass(frozen=True)
class TrainedNetwork:
    """What remains of a network.

    Args:
        tensors: numbers of its head, and what else the model is made of.
        encoder: the files of its encoder's weights folder, by name.
        card: plain values that belong to the numbers.
    """

    tensors: Mapping[str, np.ndarray]
    encoder: Mapping[str, bytes]
    card: Mapping[str, Any] = field(default_factory=dict)


def all_labels(task: str, initialisation: str = FINETUNE) -> Cell:
    """The trial of an initialisation with all labels and the first seed, whose network is kept."""
    return Cell(task, initialisation, ALL_LABELS, SEED)


def leaves_network(cell: Cell) -> bool:
    """Whether a trial's network is kept."""
    return cell == all_labels(cell.task)


def network_of_subjects(
    model: EndToEnd, pool: PatchPool, subjects: Sequence[str], targets: Targets, *, pretrained: Encoder
) -> TrainedNetwork:
    """A network that was fine-tuned on labels of subjects.

    Its score is linear in the mean feature over the pool's locations, so that it is an encoder and a head of numbers.

    Args:
        model: fitted.
        pool: that it was fitted on.
        subjects: likewise.
        targets: of these subjects.
        pretrained: where the encoder started.
    """
    head = model.fitted_head(pool, subjects, targets)
    tensors = {**head.tensors(), LOCATIONS: pool.locations_L}
    if model.out_of_fold_ is not None:
        tensors[OUT_OF_FOLD] = model.out_of_fold_
    return TrainedNetwork(
        tensors,
        network_files(model.encoder, pretrained, task=model.task.name),
        {"kind": head.kind, "valid": head.valid, "steps": model.choice_.steps if model.choice_ else 0},
    )


def write_network(workspace: Workspace, run: str, cell: Cell, network: TrainedNetwork, *, fit: str) -> None:
    """Write a trial's network; `fit` names all that it depends on."""
    card = {**network.card, "fit": fit}
    if "valid" in card:
        card["valid"] = [None if np.isinf(end) else end for end in card["valid"]]
    for name, data in model_files(NETWORK, card, network.tensors, network.encoder).items():
        workspace.write_bytes(data, *layout.network_file(run, cell.name, *name.split("/")))


def read_network(workspace: Workspace, run: str, cell: Cell, *, fit: str) -> TrainedNetwork | None:
    """A trial's network; None where there is none, or one of other data or settings."""
    import safetensors.numpy

    def place(*names: str) -> tuple[str, ...]:
        return layout.network_file(run, cell.name, *names)

    if not workspace.exists(*place(CARD_FILE)):
        return None
    card = json.loads(workspace.read_bytes(*place(CARD_FILE)))
    if card.get("fit") != fit:
        return None
    if "valid" in card:
        low, high = card["valid"]
        card["valid"] = (-np.inf if low is None else low, np.inf if high is None else high)
    names = [name for name in WEIGHTS_FOLDER if f"{ENCODER}/{name}" in card["files"]]
    return TrainedNetwork(
        safetensors.numpy.load(workspace.read_bytes(*place(HEAD_FILE))),
        {name: workspace.read_bytes(*place(ENCODER, name)) for name in names},
        {key: value for key, value in card.items() if key not in ("format", "fit", "files")},
    )


def network_files(encoder: Encoder, pretrained: Encoder, *, task: str) -> dict[str, bytes]:
    """The files of an encoder's own weights folder, by name.

    Args:
        encoder: as it was trained.
        pretrained: where it started, as `drasclr.load` returns it.
        task: that it was trained on.
    """
    from drasclr import weights

    provenance = {**pretrained.card.get("provenance", {}), "fine_tuned_on": task}
    card = {**pretrained.card, "features": "last", "pooling": "mean", "provenance": provenance}
    return weights.files(encoder, card, atlas=pretrained.atlas, template=pretrained.template)


def network_features(
    source: Mapping[str, Any], files: Mapping[str, bytes], *, pooling: str
) -> dict[str, Any]:
    """The card's `features` of a model with such an encoder.

    Args:
        source: those of the pretrained encoder that it started from.
        files: of `network_files`.
        pooling: of the patches' features.
    """
    from drasclr.encoder import FEATURES

    return {
        **{key: value for key, value in source.items() if key != "statistics_sha256"},
        "encoder": "own",
        "started_from_sha256": source.get("weights_sha256"),
        "weights_sha256": hashlib.sha256(files[WEIGHTS_FILE]).hexdigest(),
        "layer": "last",
        "pooling": pooling,
        "width": FEATURES,
    }
