"""Features of a labelled scan's windows by a frozen encoder, or of their density; encoded and committed once a scan.

Legend: M windows, P features.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.evaluation.dense.lung_volume import LungVolume, read_lung_volume
from ctplatform.evaluation.dense.sources import VERSION, MapSource, ScanSource
from ctplatform.evaluation.dense.tiles import read_tiles, training_rows
from ctplatform.evaluation.dense.windows import DENSITY, Windows, density, normaliser, to_tensor
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from drasclr.atlas import Atlas
    from drasclr.encoder import Encoder


def features_key(recipe: Recipe, encoder: str, digest: str, atlas_hash: str) -> str:
    """Names the features of an encoder; `digest` changes with its weights."""
    dense = recipe.sweep.dense
    own = {
        "stride": dense.stride,
        "train_windows": dense.train_windows,
        "weights": digest,
        "atlas": atlas_hash,
    }
    return f"{encoder}-{config_hash({**own, 'version': VERSION})}"


def encode_scan(
    workspace: Workspace,
    source: ScanSource,
    map_source: MapSource,
    *,
    encoder: str,
    run: str,
    key: str,
    training: bool,
    recipe_json: str,
) -> None:
    """Encode and commit a scan's windows: all of them, or those that are learned from.

    Args:
        encoder: `density`, `random`, or any other name for the weights of `run`.
        key: of `features_key`.
        training: whether the scan is a training subject's.
    """
    from ctplatform.dataset.atlas import read_atlas

    recipe = Recipe.model_validate_json(recipe_json)
    dense = recipe.sweep.dense
    tiles = read_tiles(workspace, *source.tiles_path(map_source, dense.stride))
    rows_M = np.arange(len(tiles.windows))
    if training:
        rows_M, _ = training_rows(tiles, count=dense.train_windows, scan_id=source.scan_id)
    volume = read_lung_volume(workspace, *source.volume_path)
    windows = tiles.windows.take(rows_M)
    if encoder == "density":
        x_MP = density(volume, windows)
    else:
        model = _encoder(workspace, encoder, run, recipe_json, key)
        x_MP = encode(model, volume, windows, read_atlas(workspace), hu_window=recipe.prepare.hu_window)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x_MP.astype(np.float32).ravel()), x_MP.shape[1])
    workspace.write_table(
        pa.table({"row": rows_M, "vector": vectors}), *source.features_path(key, map_source)
    )


def encode(
    encoder: Encoder, volume: LungVolume, windows: Windows, atlas: Atlas, *, hu_window: tuple[int, int]
) -> np.ndarray:
    """Features of a lung volume's windows, each at its own location, float32 [M, 128]."""
    import torch

    from drasclr.heads import window_features

    device = str(next(encoder.parameters()).device)
    features = window_features(
        encoder,
        to_tensor(volume.hu_ZYX),
        torch.from_numpy(windows.corners_M3),
        torch.from_numpy(volume.coordinates(atlas, windows.centres_M3)),
        normalise=normaliser(hu_window, device),
    )
    return features.cpu().numpy()


def read_features(
    workspace: Workspace, source: ScanSource, map_source: MapSource, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Committed features: rows of the windows, and x_MP float64."""
    table = workspace.read_table(*source.features_path(key, map_source))
    vectors = table.column("vector").combine_chunks()
    width = len(DENSITY) if not len(table) else len(vectors[0])
    return table.column("row").to_numpy(), vectors.flatten().to_numpy().reshape(-1, width).astype(float)


@lru_cache(maxsize=2)
def _encoder(workspace: Workspace, name: str, run: str, recipe_json: str, key: str) -> Encoder:
    """Read once a worker process; `key` changes with the weights."""
    from ctplatform.inference.encoders import load_encoder, random_encoder

    recipe = Recipe.model_validate_json(recipe_json)
    if name == "random":
        return random_encoder(workspace, recipe).eval()
    return load_encoder(workspace, run, hu_window=recipe.prepare.hu_window).eval()
