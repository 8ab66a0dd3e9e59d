"""The result of a lung segmentation: a label image of both lungs with its measures."""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK as sitk

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
    """

    labels: sitk.Image
    measures: dict[str, float]
    notes: tuple[str, ...] = ()
