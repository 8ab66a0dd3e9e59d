"""Labelled scans of a cohort, their label maps, and where everything that is made of them lies.

Every file is named after all that it depends on, so that it is found again and never stale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.imaging.fingerprint import fingerprint
from ctplatform.imaging.label_map import given_path
from ctplatform.storage import layout
from ctplatform.tasks.label_map import VolumeTask

VERSION = 1  # raise it when a change makes older lung volumes or features incomparable


@dataclass(frozen=True)
class MapSource:
    """A scan's label map of one task.

    Args:
        task: name of the task.
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
    """A labelled scan.

    Args:
        scan_id: as in the ledger.
        path: of the scan.
        series_uid: of the DICOM series; empty for other formats.
        affine: atlas LPS mm -> scan LPS mm, 16 numbers by rows, from the ledger.
        key: names the committed lung volume.
        maps: its label maps, one a task.
        lung_mask: path of a given lung mask; empty where the segmenter makes it.
    """

    scan_id: str
    path: str
    series_uid: str
    affine: tuple[float, ...]
    key: str
    maps: tuple[MapSource, ...]
    lung_mask: str = ""

    @property
    def volume_path(self) -> tuple[str, ...]:
        """Where the lung volume lies."""
        return layout.lung_volume(self.scan_id, self.key)

    def labels_path(self, source: MapSource) -> tuple[str, ...]:
        """Where a label map on the lung volume's grid lies."""
        return layout.label_map(source.task, self.scan_id, source.key)

    def tiles_path(self, source: MapSource, stride: int) -> tuple[str, ...]:
        """Where the classes of the tiles lie."""
        return layout.window_classes(source.task, stride, self.scan_id, source.key)

    def features_path(self, key: str, source: MapSource) -> tuple[str, ...]:
        """Where the windows' features lie; `key` is of `features_key`. The label map decides which windows."""
        return layout.window_features(key, self.scan_id, source.key)


def labelled_scans(
    maps: Iterable[tuple[VolumeTask, pd.DataFrame]], recipe: Recipe, scans: pd.DataFrame
) -> dict[str, ScanSource]:
    """scan_id -> the labelled scan.

    Args:
        maps: tasks, each with its `VolumeTask.maps` of the cohort.
        recipe: `prepare` and `sweep.classes`.
        scans: the ledger's usable rows.

    Raises:
        StageError: `sweep.classes` does not fit a task.
    """
    ledger = scans.set_index("scan_id")
    config = recipe.prepare
    drawn = [config.lungs.model_dump(), config.sampling.model_dump(), list(config.hu_window)]
    maps_of: dict[str, list[MapSource]] = {}
    rows: dict[str, dict[Any, Any]] = {}
    for task, table in maps:
        classes = class_values(task, recipe)
        for row in table.to_dict("records"):
            scan_id = str(row["scan_id"])
            rows[scan_id] = row
            content = ledger.loc[scan_id, "content_hash"]
            own = [VERSION, task.name, classes, fingerprint(row["label_map"]), content, drawn]
            own.append([round(float(v), 6) for v in ledger.loc[scan_id, "affine"]])
            own += [task.definition] if task.definition else []
            key, regions = config_hash({"map": own}), task.kind == "regions"
            source = MapSource(task.name, str(row["label_map"]), classes, regions, key)
            maps_of.setdefault(scan_id, []).append(source)
    found = {}
    for scan_id, sources in maps_of.items():
        affine = tuple(float(v) for v in ledger.loc[scan_id, "affine"])
        lung_mask = given_path(rows[scan_id].get("lung_mask"))
        made_of = [VERSION, ledger.loc[scan_id, "content_hash"], affine, drawn]
        key = config_hash({"cube": [*made_of, fingerprint(lung_mask)] if lung_mask else made_of})
        series_uid = rows[scan_id].get("series_uid")
        found[scan_id] = ScanSource(
            scan_id,
            str(rows[scan_id]["path"]),
            "" if series_uid is None or pd.isna(series_uid) else str(series_uid),
            affine,
            key,
            tuple(sources),
            lung_mask,
        )
    return found


def class_values(task: VolumeTask, recipe: Recipe) -> dict[str, int]:
    """Class -> value in the label maps, in the task's order.

    Raises:
        StageError: `sweep.classes` names other classes.
    """
    given = recipe.sweep.classes.get(task.name, dict(task.classes))
    if set(given) != set(task.classes):
        raise StageError(
            f"sweep.classes.{task.name} names {', '.join(given)}",
            f"Give a value for each of {', '.join(task.classes)}",
            code="config",
        )
    return {name: given[name] for name in task.classes}
