"""A folder with an encoder as ONNX, and with what is needed to feed it.

    encoder.onnx     patches [B, 1, 32, 32, 32] and locations [B, 3] -> features [B, D]; the card is in its metadata
    atlas.json       where the locations lie in the template, as beside the weights
    locations.npy    what `locations` must hold for each location of the atlas, float32 [N, 3]

The last two are left out where the weights have no atlas.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctplatform.export.onnx_graph import OPSET, onnx_model
from ctplatform.storage.layout import ATLAS_FILE

if TYPE_CHECKING:
    from drasclr.encoder import Encoder

ONNX_FILE, LOCATIONS_FILE = "encoder.onnx", "locations.npy"
INPUT = "patches: HU at spacing_mm, clipped to hu_window and scaled linearly to [-1, 1]; axes z, y, x of the patch"


def write_onnx(encoder: Encoder, folder: str | Path) -> list[str]:
    """Write the folder; returns lines for people.

    Args:
        encoder: from `drasclr.load`; its card says which features are meant.
        folder: is made if it is missing.

    Raises:
        StageError: the package onnx is not installed.
    """
    folder = Path(folder)
    features = str(encoder.card.get("features", "last"))
    model = onnx_model(encoder, features=features, metadata={"card": encoder.card, "input": INPUT})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())
    shape = [d.dim_value or d.dim_param for d in model.graph.output[0].type.tensor_type.shape.dim]
    lines = [f"{folder / ONNX_FILE}: opset {OPSET}, patches and locations -> {shape[1]} features a patch"]
    if encoder.atlas is not None:
        (folder / ATLAS_FILE).write_text(json.dumps(encoder.atlas.to_json()) + "\n", encoding="utf-8")
        np.save(folder / LOCATIONS_FILE, encoder.atlas.coordinates_N3)
        lines.append(f"{folder / LOCATIONS_FILE}: {encoder.atlas.num_locations} locations of the atlas")
    return lines
