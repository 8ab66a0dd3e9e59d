"""A task whose labels are label maps: a class for each voxel of a scan.

`regions` tasks give every voxel of lung a class, and voxels without a label (0) are left out; `structures` tasks
segment a structure from its background (0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ctplatform.errors import StageError
from ctplatform.metrics.overlap import of_kind
from ctplatform.metrics.scores import Metric, Targets
from ctplatform.metrics.stratification import quantile_strata
from ctplatform.tasks.task import Labels, Task


@dataclass(frozen=True)
class VolumeTask(Task):
    """One task on label maps; the first of `columns` names the map of each scan.

    Its targets hold, for each subject, the voxels (1 mm) of each class, [N, C].

    Args:
        classes: class -> its value in the label map; `sweep.classes` replaces the values.
    """

    classes: Mapping[str, int] = field(default_factory=dict)

    @property
    def scores(self) -> tuple[Metric, ...]:
        """The task's metrics, the main one first."""
        known = of_kind("label_map", self.classes, whole_lung=self.kind == "regions")
        return tuple(known[name] for name in self.metrics)

    def maps(self, cohort: pd.DataFrame, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
        """One label map a subject, that of the first of its scans that has one: subject_id, scan_id, path, label_map.

        Raises:
            StageError: the column is missing, or no scan has a label map.
        """
        column = (columns or {}).get(self.columns[0], self.columns[0])
        if column not in cohort:
            raise StageError(
                f"task {self.name} is skipped: the cohort has no column {column!r}",
                "Add it with the path of a label map for each scan, or name yours under sweep.columns",
                code="no-column",
            )
        given = cohort[cohort[column].notna() & (cohort[column].astype(str).str.strip() != "")]
        if given.empty:
            raise StageError(
                f"task {self.name} is skipped: no usable scan has a label map in {column!r}",
                "Check the column's values",
                code="no-labels",
            )
        given = given.assign(label_map=given[column].astype(str), subject_id=given["subject_id"].astype(str))
        first = given.sort_values("scan_id").drop_duplicates("subject_id").sort_values("subject_id")
        return first.reset_index(drop=True)

    def labels(self, cohort: pd.DataFrame, columns: Mapping[str, str] | None = None) -> Labels:
        """Label maps are no labels of subjects: `ctplatform.evaluation.dense` reads them."""
        raise NotImplementedError(f"task {self.name} has label maps, which ctplatform.evaluation.dense reads")

    def strata(self, targets: Targets) -> np.ndarray:
        """Regions: quantile bins of the share of the other classes than the first. Structures: whether there is any."""
        if self.kind == "structures":
            return np.asarray((targets.value_N.sum(1) > 0).astype(int))
        return quantile_strata(1 - targets.value_N[:, 0] / np.maximum(targets.value_N.sum(1), 1))

    def check(self, targets: Targets) -> None:
        """Check that a model can be fitted on these training labels.

        Raises:
            StageError: too few subjects, or only one class.
        """
        present = (
            [name for name, n in zip(self.classes, targets.value_N.sum(0)) if n > 0] if len(targets) else []
        )
        problem = ""
        if len(targets) < self.minimum:
            problem = (
                f"{len(targets)} training subject(s) with a label map, at least {self.minimum} are needed"
            )
        elif not present:
            problem = f"no voxel of any class in the {len(targets)} training subjects' label maps"
        elif self.kind == "regions" and len(present) < 2:
            problem = f"the {len(targets)} training subjects' label maps hold {present[0]} only"
        if problem:
            raise StageError(f"task {self.name}: {problem}", "Label more subjects", code="few-labels")
