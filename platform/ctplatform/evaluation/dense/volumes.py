"""The labelled scans of a task: their lung volumes, label maps and tiles, read where trials need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ctplatform.config.evaluation import SweepConfig
from ctplatform.evaluation.dense.features import read_features
from ctplatform.evaluation.dense.lung_volume import LungVolume, read_labels, read_lung_volume
from ctplatform.evaluation.dense.sources import MapSource, ScanSource
from ctplatform.evaluation.dense.tiles import LabelledTiles, read_tiles
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.label_map import VolumeTask


@dataclass(frozen=True)
class LabelledVolumes:
    """The labelled scans of a task, one a subject.

    Args:
        task: whose label maps.
        workspace: holds what was made of the scans.
        train: the scan of each training subject.
        test: the scan of each test subject.
        keys: frozen initialisation -> name of its features.
        config: the recipe's `sweep` section.
    """

    task: VolumeTask
    workspace: Workspace
    train: tuple[ScanSource, ...]
    test: tuple[ScanSource, ...]
    keys: Mapping[str, str]
    config: SweepConfig

    @property
    def classes(self) -> int:
        """Number of classes; of structures without the background."""
        return len(self.task.classes)

    def map_of(self, source: ScanSource) -> MapSource:
        """The scan's label map of this task."""
        return next(m for m in source.maps if m.task == self.task.name)

    def volume(self, source: ScanSource) -> LungVolume:
        """A scan's lung volume."""
        return read_lung_volume(self.workspace, *source.volume_path)

    def labels(self, source: ScanSource) -> np.ndarray:
        """A scan's label map on the grid of its lung volume, uint8 [z, y, x]."""
        return read_labels(self.workspace, *source.labels_path(self.map_of(source)))

    def tiles(self, source: ScanSource) -> LabelledTiles:
        """A scan's windows with the classes of their tiles."""
        return read_tiles(self.workspace, *source.tiles_path(self.map_of(source), self.config.dense.stride))

    def features(self, source: ScanSource, initialisation: str) -> tuple[np.ndarray, np.ndarray]:
        """Frozen features of a scan's windows: rows of the windows, and x_MP float64."""
        return read_features(self.workspace, source, self.map_of(source), self.keys[initialisation])
