"""The result of a lung segmentation: a label image of both lungs with its measures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

RIGHT, LEFT = 50, 100
"""Labels of the patient's right and left lung; source: the atlas published with DrasCLR."""


@dataclass(frozen=True)
class LungMask:
    """Result of a segmenter.

    Attributes:
        labels: uint8, 50 the patient's right and 100 the left lung, on a coarse grid in the scan's physical
            space.
        measures: numbers by which quality is assessed, in the ledger; see `measures.mask_measures`.
        notes: what the segmenter found unusual, in words.
        places: where a measure is about a place, by its name: LPS mm.
    """

    labels: sitk.Image
    measures: dict[str, float]
    notes: tuple[str, ...] = ()
    places: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def middle_voxel(grid: sitk.Image, where_ZYX: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The voxel of a region that is nearest to its middle, LPS mm; the region is not empty."""
    index_N3 = np.argwhere(where_ZYX)[:, ::-1]
    away_N = np.linalg.norm((index_N3 - index_N3.mean(axis=0)) * grid.GetSpacing(), axis=1)
    x, y, z = grid.TransformIndexToPhysicalPoint(index_N3[away_N.argmin()].tolist())
    return x, y, z
