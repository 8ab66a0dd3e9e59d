"""One trial on label maps: its table of predictions, and slices of a few maps for the report.

Legend: N test subjects, C classes, K numbers a class.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ctplatform.evaluation.dense import lung_volume as cubes
from ctplatform.evaluation.dense.slices import Slice, chosen, slice_of, write_slices
from ctplatform.metrics.overlap import PREDICTED_PERCENT, TRUE_PERCENT, region_numbers
from ctplatform.tasks import get_task

if TYPE_CHECKING:
    from ctplatform.evaluation.cells import Cell, Shared
    from ctplatform.evaluation.dense.problem import VolumeProblem


def predictions(shared: Shared, cell: Cell, problem: VolumeProblem, rows: np.ndarray) -> pd.DataFrame:
    """Fit, predict every test subject's map, score it. One row a test subject and class.

    `target` and `prediction` are percentages of the lung (regions) or ml (structures); `numbers` is what scores are
    made of (`ctplatform.metrics.overlap`).
    """
    regions = get_task(cell.task).kind == "regions"
    numbers, slices = (_regions if regions else _structures)(shared, cell, problem, rows)
    if slices:
        write_slices(shared.workspace, shared.run, cell, slices)
    classes = list(get_task(cell.task).classes)  # type: ignore[attr-defined]
    records = []
    for n, subject in enumerate(problem.test_subjects):
        for c, name in enumerate(classes):
            target, prediction, kept = numbers[n][c]
            records.append(
                {
                    **asdict(cell),
                    "subject_id": subject,
                    "scan_id": problem.test_sources[n].scan_id,
                    "class": name,
                    "target": target,
                    "prediction": prediction,
                    "time": np.nan,
                    "event": np.nan,
                    "numbers": kept,
                }
            )
    return pd.DataFrame(records)


Numbers = list[list[tuple[float, float, list[float]]]]


def _pictured(cell: Cell, problem: VolumeProblem) -> frozenset[int]:
    """Test subjects whose maps the report shows: of one seed, with the most labels."""
    sweep = problem.parsed.sweep
    if cell.seed or cell.fraction != max(sweep.fractions):
        return frozenset()
    regions = get_task(cell.task).kind == "regions"
    voxels_NC = problem.test.value_N
    return chosen((voxels_NC[:, 1:] if regions else voxels_NC).sum(1))


def _regions(
    shared: Shared, cell: Cell, problem: VolumeProblem, rows: np.ndarray
) -> tuple[Numbers, list[Slice]]:
    from ctplatform.evaluation.dense.regions import predictor

    predict, pictured = predictor(shared, cell, problem, rows), _pictured(cell, problem)
    numbers: Numbers = []
    slices = []
    for n, source in enumerate(problem.test_sources):
        cells, probability_MC = predict(n)
        table_CK = region_numbers(cells.counts_MC, cells.missed_C, probability_MC)
        numbers.append([(row[TRUE_PERCENT], row[PREDICTED_PERCENT], row.tolist()) for row in table_CK])
        if n in pictured:
            cube = cubes.read_cube(shared.workspace, *source.cube)
            labels_ZYX = cubes.read_labels(shared.workspace, *source.labels(problem.map_of(source)))
            called_M = (probability_MC.argmax(1) + 1).astype(np.uint8)
            painted_ZYX = cells.windows.paint(called_M, cube.lungs_ZYX)
            slices.append(
                slice_of(problem.test_subjects[n], source.scan_id, cube, labels_ZYX, painted_ZYX, first=2)
            )
    return numbers, slices


def _structures(
    shared: Shared, cell: Cell, problem: VolumeProblem, rows: np.ndarray
) -> tuple[Numbers, list[Slice]]:
    from ctplatform.evaluation.dense.segmentation import case_numbers, predictor

    predict, pictured = predictor(shared, cell, problem, rows), _pictured(cell, problem)
    classes = problem.test.value_N.shape[1]
    numbers: Numbers = []
    slices = []
    for n, source in enumerate(problem.test_sources):
        cube, labels_ZYX, predicted_ZYX = predict(n)
        table_CK = case_numbers(cube, labels_ZYX, predicted_ZYX, classes=classes)
        true, called = (
            np.bincount(x.ravel(), minlength=classes + 1)[1:] for x in (labels_ZYX, predicted_ZYX)
        )
        ml = cube.voxel_ml
        numbers.append([(t * ml, p * ml, row.tolist()) for t, p, row in zip(true, called, table_CK)])
        if n in pictured:
            slices.append(
                slice_of(problem.test_subjects[n], source.scan_id, cube, labels_ZYX, predicted_ZYX, first=1)
            )
    return numbers, slices
