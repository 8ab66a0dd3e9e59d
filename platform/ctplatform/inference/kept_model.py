"""Models of subjects' labels: a head on frozen features, or a fine-tuned network, with its card (`model_folder`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ctplatform.errors import StageError
from ctplatform.inference.model_folder import (
    HEAD,
    LABEL_MAP,
    NETWORK,
    ModelFolder,
    damaged,
    model_files,
    read_folder,
)
from ctplatform.tasks.fitted_head import FittedHead

if TYPE_CHECKING:
    from ctplatform.inference.scan_embedding import ScanEmbedding

LOCATIONS = "locations_L"


@dataclass(frozen=True)
class KeptModel:
    """A head with its card.

    Args:
        head: takes vectors of patients; of a network the mean feature over some locations.
        card: what is known about it.
        locations_L: of a network: rows of the atlas's locations whose features it takes.
        encoder: where a network's encoder lies: a weights folder.
        encoder_files: a network's encoder, to be written.
    """

    head: FittedHead
    card: Mapping[str, Any]
    locations_L: np.ndarray | None = None
    encoder: str = ""
    encoder_files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def features(self) -> Mapping[str, Any]:
        """What the head takes: encoder, run, weights_sha256, atlas_hash, hu_window, layer, pooling, width, and
        statistics_sha256 where patients' vectors are standardised.
        """
        found: Mapping[str, Any] = self.card["features"]
        return found

    def vector(self, scan: ScanEmbedding) -> np.ndarray:
        """What the head takes of an embedded scan, float64 [P]."""
        if self.locations_L is None:
            return np.asarray(scan.patient_P, float)
        assert scan.patches_NP is not None
        return np.asarray(scan.patches_NP[self.locations_L].astype(float).mean(0))

    def files(self) -> dict[str, bytes]:
        """The content of each file, by path in the folder; the card last."""
        tensors = self.head.tensors()
        low, high = (None if np.isinf(end) else end for end in self.head.valid)
        card = {**self.card, "task": {**self.card["task"], "kind": self.head.kind, "valid": [low, high]}}
        if self.locations_L is None:
            return model_files(HEAD, card, tensors)
        return model_files(NETWORK, card, {**tensors, LOCATIONS: self.locations_L}, self.encoder_files)

    def intervals(self, prediction_N: np.ndarray) -> np.ndarray:
        """[N, 2]: the calibration's interval of each prediction; nan where the card has none."""
        calibration = self.card.get("calibration") or {}
        low_N = high_N = np.full(len(prediction_N), np.nan)
        if "half_width" in calibration:
            low_N, high_N = (
                np.clip(prediction_N + sign * calibration["half_width"], *self.head.valid) for sign in (-1, 1)
            )
        elif calibration.get("bins"):
            bins = calibration["bins"]
            place_N = np.searchsorted([b["upper"] for b in bins[:-1]], prediction_N, side="left")
            low_N, high_N = (np.array([b[end] for b in bins])[place_N] for end in ("low", "high"))
        return np.stack([low_N, high_N], axis=1)


def read_model(folder: str | Path) -> KeptModel:
    """The model of a folder or prefix of an object store.

    Raises:
        StageError: there is none, it is of another format or of a later version, or damaged; or it makes label maps.
    """
    return kept_model_of(read_folder(folder))


def kept_model_of(found: ModelFolder) -> KeptModel:
    """The model of a folder that has been read. Raises as `read_model` does."""
    if found.card["format"] == LABEL_MAP:
        raise StageError(
            f"the model of {found.place} makes label maps, which need the voxels of a scan",
            "Give the scans' files in place of --workspace",
            code="usage",
        )
    try:
        task, tensors = found.card["task"], found.tensors
        head = FittedHead.from_tensors(tensors, kind=task["kind"], valid=tuple(task["valid"]))
        if found.card["format"] == NETWORK:
            return KeptModel(head, found.card, tensors[LOCATIONS], found.encoder)
        return KeptModel(head, found.card)
    except (ValueError, KeyError) as error:
        raise damaged(found.place, error) from None


class Carded(Protocol):
    """A model with its card."""

    @property
    def card(self) -> Mapping[str, Any]:
        """What is known about it."""

    @property
    def features(self) -> Mapping[str, Any]:
        """What it was trained with."""


def check_fits(model: Carded, found: Mapping[str, Any]) -> None:
    """Whether a model may be applied to features; what either side does not state is not checked.

    Args:
        model: states what it was trained with.
        found: the same keys as `KeptModel.features`, of the features at hand.

    Raises:
        StageError: naming everything that does not fit.
    """
    words = {
        "weights_sha256": "weights",
        "atlas_hash": "atlas",
        "hu_window": "HU window",
        "pooling": "pooling",
        "statistics_sha256": "statistics of the training scans",
        "layer": "features",
        "width": "number of features",
    }
    problems = []
    for key, word in words.items():
        own, other = model.features.get(key), found.get(key)
        if own and other and own != other:
            own, other = (value[:12] if isinstance(value, str) else value for value in (own, other))
            problems.append(f"{word} {own}, here {other}")
    if problems:
        raise StageError(
            f"the model of {model.card['task']['name']} does not fit these features. It was trained with "
            + "; ".join(problems),
            "Use a model that was trained with these weights, or embed the scans with the weights that it names",
            code="misfit",
        )
