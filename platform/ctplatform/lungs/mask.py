"""TODO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import SimpleITK as sitk

RIGHT, LEFT = 50, 100
"""Labels of the patient's right and left lung, as in the published atlas."""


@dataclass(frozen=True)
class LungMask:
    """Result of a segmenter.

    Attributes:
        labels: uint8, 50 the patient's right and 100 the left lung, on a coarse grid in the scan's physical
            space.
        measures: numbers for the verdict and the ledger.
        notes: what the segmenter found unusual, in words.
    """

    labels: sitk.Image
    measures: dict[str, float]
    notes: tuple[str, ...] = ()


class LungSegmenter(Protocol):
    """Anything that finds the lungs of an int16 HU image with axes in LPS order.

    Raises:
        ScanError: no lung was found.
    """

    def __call__(self, image: sitk.Image) -> LungMask: ...
