"""Labelled scans made ready for trials, once a scan: its cube, its label maps on it, its windows' features.

Every file is named after all that it depends on and written whole, so that a second run finds it and a killed one
leaves nothing half done.

Legend: M windows, C classes, P features.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.config.digest import config_hash
from ctplatform.config.preparation import PrepareConfig
from ctplatform.config.recipe import Recipe
from ctplatform.errors import ScanError
from ctplatform.evaluation.dense import lung_volume as cubes
from ctplatform.evaluation.dense.windows import DENSITY, Windows, density, normaliser, to_tensor, windows_of
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from drasclr.atlas import Atlas
    from drasclr.encoder import Encoder

VERSION = 1  # raise it when a change makes older cubes or features incomparable
CELLS = b"drasclr.cells"


@dataclass(frozen=True)
class MapSource:
    """A scan's label map of one task.

    Args:
        task: whose.
        path: of the file.
        classes: class -> value in the file.
        regions: whether it must cover the lungs.
        key: names the committed map.
    """

    task: str
    path: str
    classes: dict[str, int]
    regions: bool
    key: str


@dataclass(frozen=True)
class ScanSource:
    """A labelled scan: what its cube and maps are made of."""

    scan_id: str
    path: str
    series_uid: str
    affine: tuple[float, ...]
    key: str
    maps: tuple[MapSource, ...]

    @property
    def cube(self) -> tuple[str, ...]:
        """Where the cube is."""
        return layout.lung_volume(self.scan_id, self.key)

    def labels(self, source: MapSource) -> tuple[str, ...]:
        """Where a label map on the cube is."""
        return layout.label_map(source.task, self.scan_id, source.key)

    def cells(self, source: MapSource, stride: int) -> tuple[str, ...]:
        """Where the classes of the windows are."""
        return layout.window_classes(source.task, stride, self.scan_id, source.key)

    def features(self, key: str, source: MapSource) -> tuple[str, ...]:
        """Where the windows' features are; `key` is from `features_key`. Which windows depends on the label map."""
        return layout.window_features(key, self.scan_id, source.key)


@dataclass(frozen=True)
class Cells:
    """A scan's windows and what a reader called the voxels of their cells.

    Attributes:
        windows: all of the lungs.
        counts_MC: labelled voxels of the lungs of each class in each cell.
        missed_C: labelled voxels outside of the lung mask.
    """

    windows: Windows
    counts_MC: np.ndarray
    missed_C: np.ndarray

    @property
    def classes_M(self) -> np.ndarray:
        """The commonest class of each cell; -1 where nothing is labelled."""
        return np.where(self.counts_MC.sum(1) > 0, self.counts_MC.argmax(1), -1)


def prepare_scan(
    workspace: Workspace, source: ScanSource, config_json: str, stride: int
) -> dict[str, dict[str, Any]]:
    """Make what is missing of a labelled scan. Returns for each task its voxels a class, or the problem."""
    missing = [m for m in source.maps if not workspace.exists(*source.labels(m))]
    have_cube = workspace.exists(*source.cube)
    found: dict[str, dict[str, Any]] = {}
    cube = None
    if missing or not have_cube:
        try:
            cube = (
                cubes.read_cube(workspace, *source.cube)
                if have_cube
                else _make_cube(workspace, source, config_json)
            )
        except ScanError as error:
            return {m.task: {"problem": str(error)} for m in source.maps}
    for map_source in source.maps:
        try:
            found[map_source.task] = _prepare_map(workspace, source, map_source, cube, stride)
        except ScanError as error:
            found[map_source.task] = {"problem": str(error)}
    return found


def _make_cube(workspace: Workspace, source: ScanSource, config_json: str) -> cubes.Cube:
    import SimpleITK as sitk

    from ctplatform.imaging.volume import read_volume
    from ctplatform.lungs.segmenter import make_segmenter

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    config = PrepareConfig.model_validate_json(config_json)
    image = read_volume(source.path, series_uid=source.series_uid or None).image
    lungs = make_segmenter(config.lungs)(image).labels
    cube = cubes.make_cube(image, lungs, np.reshape(source.affine, (4, 4)), config=config)
    cubes.write_cube(workspace, cube, *source.cube)
    return cube


def _prepare_map(
    workspace: Workspace, source: ScanSource, map_source: MapSource, cube: cubes.Cube | None, stride: int
) -> dict[str, Any]:
    from ctplatform.imaging.label_map import read_label_map

    where, labels_ZYX = source.labels(map_source), None
    if not workspace.exists(*where):
        assert cube is not None
        labels_ZYX = cubes.labels_on(cube, read_label_map(map_source.path, map_source.classes))
        if map_source.regions:
            cubes.check_on_lungs(cube, labels_ZYX)
        counts = np.bincount(labels_ZYX.ravel(), minlength=len(map_source.classes) + 1)[1:]
        facts = {"voxels": counts.tolist(), "voxel_ml": cube.voxel_ml}
        cubes.write_labels(workspace, labels_ZYX, facts, *where)
    if map_source.regions and not workspace.exists(*source.cells(map_source, stride)):
        cube = cube or cubes.read_cube(workspace, *source.cube)
        labels_ZYX = cubes.read_labels(workspace, *where) if labels_ZYX is None else labels_ZYX
        cells = cells_of(cube, labels_ZYX, classes=len(map_source.classes), stride=stride)
        write_cells(workspace, cells, *source.cells(map_source, stride))
    return cubes.read_facts(workspace, *where)


def cells_of(cube: cubes.Cube, labels_ZYX: np.ndarray, *, classes: int, stride: int) -> Cells:
    """The windows of a cube with the classes of a label map."""
    windows = windows_of(cube.lungs_ZYX, stride=stride)
    counts_MC = windows.classes(labels_ZYX, cube.lungs_ZYX, classes=classes)
    total_C = np.bincount(labels_ZYX.ravel(), minlength=classes + 1)[1:]
    return Cells(windows, counts_MC, total_C - counts_MC.sum(0))


def write_cells(workspace: Workspace, cells: Cells, *parts: str) -> None:
    """Commit windows and their classes."""
    z, y, x = cells.windows.cells_M3.T
    table = pa.table({"z": z, "y": y, "x": x, "voxels": list(cells.counts_MC)})
    header = {"stride": cells.windows.stride, "shape": cells.windows.shape, "missed": cells.missed_C.tolist()}
    workspace.write_table(table.replace_schema_metadata({CELLS: json.dumps(header)}), *parts)


def read_cells(workspace: Workspace, *parts: str) -> Cells:
    """Committed windows and their classes."""
    table = pq.read_table(pa.BufferReader(workspace.read_bytes(*parts)))
    header = json.loads(table.schema.metadata[CELLS])
    cells_M3 = np.stack([table.column(name).to_numpy() for name in "zyx"], axis=1)
    windows = Windows(cells_M3, header["stride"], tuple(header["shape"]))
    counts_MC = np.array(table.column("voxels").to_pylist(), np.int64).reshape(len(windows), -1)
    return Cells(windows, counts_MC, np.array(header["missed"]))


def training_rows(cells: Cells, *, count: int, scan_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a training subject that are learned from: as many of each class as there are, `count` in all.

    Returns:
        Rows, sorted, and how many windows of its class each stands for. Always the same for a scan.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(scan_id.encode()).digest()[:8], "little"))
    classes_M = cells.classes_M
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
    """Features of a scan's windows, written: all of them, or those that are learned from."""
    from ctplatform.dataset.atlas import read_atlas

    recipe = Recipe.model_validate_json(recipe_json)
    dense = recipe.sweep.dense
    cells = read_cells(workspace, *source.cells(map_source, dense.stride))
    rows_M = np.arange(len(cells.windows))
    if training:
        rows_M, _ = training_rows(cells, count=dense.train_windows, scan_id=source.scan_id)
    cube = cubes.read_cube(workspace, *source.cube)
    windows = cells.windows.take(rows_M)
    if encoder == "density":
        x_MP = density(cube, windows)
    else:
        model = _encoder(workspace, encoder, run, recipe_json, key)
        x_MP = encode(model, cube, windows, read_atlas(workspace), hu_window=recipe.prepare.hu_window)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x_MP.astype(np.float32).ravel()), x_MP.shape[1])
    workspace.write_table(pa.table({"row": rows_M, "vector": vectors}), *source.features(key, map_source))


def encode(
    encoder: Encoder, cube: cubes.Cube, windows: Windows, atlas: Atlas, *, hu_window: tuple[int, int]
) -> np.ndarray:
    """Features of a cube's windows, each at its own location, float32 [M, 128]."""
    import torch

    from drasclr.heads import window_features

    device = str(next(encoder.parameters()).device)
    features = window_features(
        encoder,
        to_tensor(cube.hu_ZYX),
        torch.from_numpy(windows.corners_M3),
        torch.from_numpy(cube.coordinates(atlas, windows.centres_M3)),
        normalise=normaliser(hu_window, device),
    )
    return features.cpu().numpy()


def read_features(
    workspace: Workspace, source: ScanSource, map_source: MapSource, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Committed features: rows of the windows, and x_MP float64."""
    table = workspace.read_table(*source.features(key, map_source))
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
