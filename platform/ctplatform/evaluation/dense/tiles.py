"""Tiles of a labelled scan's lungs: how many voxels of each class a reader called in each, and which are learned from.

Legend: M windows and their tiles, C classes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ctplatform.evaluation.dense.lung_volume import LungVolume
from ctplatform.evaluation.dense.windows import Windows, windows_of
from ctplatform.storage.workspace import Workspace

METADATA_KEY = b"drasclr.cells"


@dataclass(frozen=True)
class LabelledTiles:
    """A scan's windows with the labelled voxels of their tiles.

    Attributes:
        windows: all of the lungs.
        counts_MC: labelled voxels of the lungs of each class in each tile.
        missed_C: labelled voxels outside of the lung mask.
    """

    windows: Windows
    counts_MC: np.ndarray
    missed_C: np.ndarray

    @property
    def classes_M(self) -> np.ndarray:
        """The commonest class of each tile; -1 where nothing is labelled."""
        return np.where(self.counts_MC.sum(1) > 0, self.counts_MC.argmax(1), -1)


def label_tiles(volume: LungVolume, labels_ZYX: np.ndarray, *, classes: int, stride: int) -> LabelledTiles:
    """The tiles of a lung volume with the classes of a label map on its grid; `stride` voxels a side."""
    windows = windows_of(volume.lungs_ZYX, stride=stride)
    counts_MC = windows.classes(labels_ZYX, volume.lungs_ZYX, classes=classes)
    total_C = np.bincount(labels_ZYX.ravel(), minlength=classes + 1)[1:]
    return LabelledTiles(windows, counts_MC, total_C - counts_MC.sum(0))


def write_tiles(workspace: Workspace, tiles: LabelledTiles, *parts: str) -> None:
    """Commit labelled tiles."""
    z, y, x = tiles.windows.tiles_M3.T
    table = pa.table({"z": z, "y": y, "x": x, "voxels": list(tiles.counts_MC)})
    header = {"stride": tiles.windows.stride, "shape": tiles.windows.shape, "missed": tiles.missed_C.tolist()}
    workspace.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(header)}), *parts)


def read_tiles(workspace: Workspace, *parts: str) -> LabelledTiles:
    """Committed labelled tiles."""
    table = workspace.read_table(*parts)
    header = json.loads(table.schema.metadata[METADATA_KEY])
    tiles_M3 = np.stack([table.column(name).to_numpy() for name in "zyx"], axis=1)
    windows = Windows(tiles_M3, header["stride"], tuple(header["shape"]))
    counts_MC = np.array(table.column("voxels").to_pylist(), np.int64).reshape(len(windows), -1)
    return LabelledTiles(windows, counts_MC, np.array(header["missed"]))


def training_rows(tiles: LabelledTiles, *, count: int, scan_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a training subject that are learned from: as many of each class as there are, `count` in all.

    Returns:
        Rows, sorted, and how many windows of its class each stands for. Always the same for a scan.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(scan_id.encode()).digest()[:8], "little"))
    classes_M = tiles.classes_M
    present = [c for c in np.unique(classes_M) if c >= 0]
    rows, weights = [np.empty(0, int)], [np.empty(0)]
    for c in present:
        own = np.flatnonzero(classes_M == c)
        taken = rng.permutation(own)[: max(1, count // len(present))]
        rows.append(taken)
        weights.append(np.full(len(taken), len(own) / len(taken)))
    rows_M, weights_M = np.concatenate(rows), np.concatenate(weights)
    order = np.argsort(rows_M)
    return rows_M[order], weights_M[order]
