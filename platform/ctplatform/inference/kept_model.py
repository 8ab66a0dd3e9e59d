"""A model folder: a fitted head and its card, to predict other scans with.

    head.safetensors  the head's numbers (`FittedHead`)
    card.json         the task with its unit, what the head's features are, what it was trained on, how it was chosen,
                      its calibration, its scores on held-out subjects, and the SHA-256 of the other file

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

from ctplatform.errors import StageError
from ctplatform.storage.layout import CARD_FILE, HEAD_FILE
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.fitted_head import FittedHead

FORMAT = "drasclr-head-1"


@dataclass(frozen=True)
class KeptModel:
    """A head with its card."""

    head: FittedHead
    card: Mapping[str, Any]

    @property
    def features(self) -> Mapping[str, Any]:
        """What the head takes: encoder, run, weights_sha256, atlas_hash, hu_window, layer, pooling, width, and
        statistics_sha256 where patients' vectors are standardised.
        """
        found: Mapping[str, Any] = self.card["features"]
        return found

    def files(self) -> dict[str, bytes]:
        """The content of each file, by name; the card last."""
        import safetensors.numpy

        data = safetensors.numpy.save(self.head.tensors())
        low, high = (None if np.isinf(end) else end for end in self.head.valid)
        card = {
            "format": FORMAT,
            **self.card,
            "task": {**self.card["task"], "kind": self.head.kind, "valid": [low, high]},
            "files": {HEAD_FILE: hashlib.sha256(data).hexdigest()},
        }
        return {HEAD_FILE: data, CARD_FILE: (json.dumps(card, indent=2) + "\n").encode()}

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
        StageError: there is none, it is of another format, or damaged.
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
        if card.get("format") != FORMAT:
            raise ValueError(f"its format is {card.get('format')!r}, this version reads {FORMAT!r}")
        if hashlib.sha256(data).hexdigest() != card["files"][HEAD_FILE]:
            raise ValueError(f"{HEAD_FILE} is not the one that {CARD_FILE} describes")
        tensors = safetensors.numpy.load(data)
        task = card["task"]
        head = FittedHead.from_tensors(tensors, kind=task["kind"], valid=tuple(task["valid"]))
        return KeptModel(head, card)
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise StageError(
            f"the model of {folder} cannot be read: {error}",
            "Copy the whole folder again",
            code="damaged-model",
        ) from None


def check_fits(model: KeptModel, found: Mapping[str, Any]) -> None:
    """Whether a head may be applied to features; what either side does not state is not checked.

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
