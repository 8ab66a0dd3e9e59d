"""The protocol of lung segmenters, and the segmenters that a recipe can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import SimpleITK as sitk

from ctplatform.config.preparation import LungsConfig
from ctplatform.lungs.classical import ClassicalSegmenter
from ctplatform.lungs.lungmask_unet import LungmaskSegmenter
from ctplatform.lungs.mask import LungMask
from ctplatform.lungs.totalsegmentator_lobes import TotalSegmentatorSegmenter


class LungSegmenter(Protocol):
    """Anything that segments both lungs in an int16 HU image with axes in LPS order.

    Raises:
        ScanError: no lung was found.
    """

    def __call__(self, image: sitk.Image) -> LungMask: ...


SEGMENTERS: dict[str, Callable[[LungsConfig], LungSegmenter]] = {
    "classical": lambda config: ClassicalSegmenter(spacing_mm=config.spacing_mm),
    "lungmask": lambda config: LungmaskSegmenter(spacing_mm=config.spacing_mm, weights=config.weights),
    "totalsegmentator": lambda config: TotalSegmentatorSegmenter(spacing_mm=config.spacing_mm),
}
"""By the value of `prepare.lungs.segmenter`; a further segmenter is a further entry."""


def lung_mask(image: sitk.Image, config: LungsConfig, *, given: str = "") -> LungMask:
    """Both lungs of a scan: the mask at the path `given`, else the segmenter's.

    Raises:
        ScanError: no lung was found, or the given mask does not fit.
        StageError: the segmenter's package is not installed.
    """
    if given:
        from ctplatform.lungs.given_mask import read_lung_mask

        return read_lung_mask(given, image, spacing_mm=config.spacing_mm)
    return make_segmenter(config)(image)


def make_segmenter(config: LungsConfig) -> LungSegmenter:
    """The segmenter that a recipe names.

    Raises:
        StageError: its package is not installed.
    """
    return SEGMENTERS[config.segmenter](config)
