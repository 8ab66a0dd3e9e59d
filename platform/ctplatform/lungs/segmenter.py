"""Lung mask of a chest CT, right and left told apart, behind a small protocol.

The classical segmenter works on a grid of a few millimetres: lung is what is dark, lies in the body and is
neither outside air nor airway nor bowel gas. What told these apart on real scans is written beside each step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ctplatform.config.preparation import LungsConfig
from ctplatform.lungs.classical import ClassicalSegmenter
from ctplatform.lungs.lungmask_unet import LungmaskSegmenter
from ctplatform.lungs.mask import LungSegmenter

logger = logging.getLogger(__name__)

"""Means over a coarse voxel: gas in airways and bowel lies below, even emphysema mostly above."""


def make_segmenter(config: LungsConfig) -> LungSegmenter:
    """The segmenter that a recipe names.

    Raises:
        StageError: its package is not installed.
    """
    return SEGMENTERS[config.segmenter](config)


SEGMENTERS: dict[str, Callable[[LungsConfig], LungSegmenter]] = {
    "classical": lambda config: ClassicalSegmenter(spacing_mm=config.spacing_mm),
    "lungmask": lambda config: LungmaskSegmenter(spacing_mm=config.spacing_mm, weights=config.weights),
}
"""By the name that a recipe gives; one more is one more entry."""
