"""Labelled scans made ready for trials, once a scan: the lung volume, the label maps on its grid, their tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctplatform.config.preparation import PrepareConfig
from ctplatform.errors import ScanError
from ctplatform.evaluation.dense.lung_volume import (
    LungVolume,
    check_on_lungs,
    cut_lung_volume,
    labels_on,
    read_facts,
    read_labels,
    read_lung_volume,
    write_labels,
    write_lung_volume,
)
from ctplatform.evaluation.dense.sources import MapSource, ScanSource
from ctplatform.evaluation.dense.tiles import label_tiles, write_tiles
from ctplatform.storage.workspace import Workspace


def prepare_scan(
    workspace: Workspace, source: ScanSource, config_json: str, stride: int
) -> dict[str, dict[str, Any]]:
    """Make what is missing of a labelled scan.

    Args:
        workspace: where it is committed.
        source: the scan and its label maps.
        config_json: the recipe's `prepare` section.
        stride: voxels a side of a tile.

    Returns:
        Task -> facts of its label map (`voxels` of each class, `voxel_ml`), or {"problem": why it cannot be used}.
    """
    missing = [m for m in source.maps if not workspace.exists(*source.labels_path(m))]
    has_volume = workspace.exists(*source.volume_path)
    found: dict[str, dict[str, Any]] = {}
    volume = None
    if missing or not has_volume:
        try:
            volume = (
                read_lung_volume(workspace, *source.volume_path)
                if has_volume
                else _prepare_volume(workspace, source, config_json)
            )
        except ScanError as error:
            return {m.task: {"problem": str(error)} for m in source.maps}
    for map_source in source.maps:
        try:
            found[map_source.task] = _prepare_map(workspace, source, map_source, volume, stride)
        except ScanError as error:
            found[map_source.task] = {"problem": str(error)}
    return found


def _prepare_volume(workspace: Workspace, source: ScanSource, config_json: str) -> LungVolume:
    import SimpleITK as sitk

    from ctplatform.imaging.volume import read_volume
    from ctplatform.lungs.segmenter import lung_mask

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    config = PrepareConfig.model_validate_json(config_json)
    image = read_volume(source.path, series_uid=source.series_uid or None).image
    lungs = lung_mask(image, config.lungs, given=source.lung_mask).labels
    volume = cut_lung_volume(image, lungs, np.reshape(source.affine, (4, 4)), config=config)
    write_lung_volume(workspace, volume, *source.volume_path)
    return volume


def _prepare_map(
    workspace: Workspace, source: ScanSource, map_source: MapSource, volume: LungVolume | None, stride: int
) -> dict[str, Any]:
    from ctplatform.imaging.label_map import read_label_map

    path, labels_ZYX = source.labels_path(map_source), None
    if not workspace.exists(*path):
        assert volume is not None
        labels_ZYX = labels_on(volume, read_label_map(map_source.path, map_source.classes))
        if map_source.regions:
            check_on_lungs(volume, labels_ZYX)
        counts = np.bincount(labels_ZYX.ravel(), minlength=len(map_source.classes) + 1)[1:]
        facts = {"voxels": counts.tolist(), "voxel_ml": volume.voxel_ml}
        write_labels(workspace, labels_ZYX, facts, *path)
    if map_source.regions and not workspace.exists(*source.tiles_path(map_source, stride)):
        volume = volume or read_lung_volume(workspace, *source.volume_path)
        labels_ZYX = read_labels(workspace, *path) if labels_ZYX is None else labels_ZYX
        tiles = label_tiles(volume, labels_ZYX, classes=len(map_source.classes), stride=stride)
        write_tiles(workspace, tiles, *source.tiles_path(map_source, stride))
    return read_facts(workspace, *path)
