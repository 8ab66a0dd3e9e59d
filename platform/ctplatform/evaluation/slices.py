"""Slices of a few test subjects' CT, label map and predicted map, kept for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ctplatform.evaluation.cells import Cell
from ctplatform.storage import layout
from ctplatform.storage.layout import EVALUATION, MAPS
from ctplatform.storage.workspace import Workspace

SHOWN = 3
GREY_HU = (-1000, 200)


@dataclass(frozen=True)
class Slice:
    """A slice of one subject.

    Attributes:
        plane: coronal or axial.
        grey: uint8 [rows, columns], the CT from -1000 to 200 HU; head up, the patient's right on the left.
        truth, predicted: uint8 classes on the same pixels.
    """

    subject_id: str
    scan_id: str
    plane: str
    grey: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def shown_subjects(amount_N: np.ndarray) -> frozenset[int]:
    """Rows of the subjects at the maximum, at five sixths of the ranks and at the median of an amount of disease."""
    order = np.argsort(amount_N, kind="stable")
    last = len(order) - 1
    return frozenset(int(order[round(last * share)]) for share in (1.0, 5 / 6, 0.5)[:SHOWN])


def slice_of(
    subject_id: str,
    scan_id: str,
    hu_ZYX: np.ndarray,
    lungs_ZYX: np.ndarray,
    labels_ZYX: np.ndarray,
    predicted_ZYX: np.ndarray,
    *,
    first: int,
) -> Slice:
    """The slice with the most voxels of class `first` and higher: coronal for regions (2), axial for structures (1).

    Without any such voxel it is the slice with the most lung.
    """
    axis, plane = (1, "coronal") if first > 1 else (0, "axial")
    there = (labels_ZYX >= first).sum(axis=tuple({0, 1, 2} - {axis}))
    lungs = lungs_ZYX.sum(axis=tuple({0, 1, 2} - {axis}))
    index = int(np.argmax(there if there.any() else lungs))
    low, high = GREY_HU

    def cut(volume_ZYX: np.ndarray) -> np.ndarray:
        flat = np.take(volume_ZYX, index, axis)
        return np.ascontiguousarray(flat[::-1] if plane == "coronal" else flat)

    grey = np.clip((cut(hu_ZYX).astype(float) - low) / (high - low), 0, 1) * 255
    return Slice(subject_id, scan_id, plane, grey.astype(np.uint8), cut(labels_ZYX), cut(predicted_ZYX))


def write_slices(workspace: Workspace, run: str, cell: Cell, slices: Sequence[Slice]) -> None:
    """Commit the slices of one initialisation."""
    rows = [
        {
            "subject_id": s.subject_id,
            "scan_id": s.scan_id,
            "plane": s.plane,
            "fraction": cell.fraction,
            "rows": s.grey.shape[0],
            "columns": s.grey.shape[1],
            **{name: getattr(s, name).astype(np.uint8).tobytes() for name in ("grey", "truth", "predicted")},
        }
        for s in slices
    ]
    workspace.write_table(
        pa.Table.from_pylist(rows), *layout.prediction_map(run, cell.task, cell.initialisation)
    )


def read_slices(workspace: Workspace, run: str) -> dict[tuple[str, str], list[Slice]]:
    """(task, initialisation) -> its slices."""
    found = {}
    for name in workspace.files(EVALUATION, run, MAPS, suffix=".parquet"):
        task, _, initialisation = name.removesuffix(".parquet").partition("-")
        slices = []
        for row in workspace.read_table(EVALUATION, run, MAPS, name).to_pylist():
            shape = row["rows"], row["columns"]
            images = {
                k: np.frombuffer(row[k], np.uint8).reshape(shape) for k in ("grey", "truth", "predicted")
            }
            slices.append(Slice(row["subject_id"], row["scan_id"], row["plane"], **images))
        found[task, initialisation] = slices
    return found
