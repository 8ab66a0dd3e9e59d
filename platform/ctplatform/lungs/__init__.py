"""Lung masks of chest CT: right and left lung segmented by one of several segmenters, and measured.

`segmenter` has the protocol and the choice; `classical` (with `coarse_grid`, `airway`, `left_right`), `lungmask_unet`
and `totalsegmentator_lobes` (both with `network_mask`) are the segmenters; `mask` is their result and `measures` its
numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.lungs.classical import ClassicalSegmenter
    from ctplatform.lungs.lungmask_unet import LungmaskSegmenter
    from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
    from ctplatform.lungs.measures import density
    from ctplatform.lungs.segmenter import LungSegmenter, make_segmenter
    from ctplatform.lungs.totalsegmentator_lobes import TotalSegmentatorSegmenter

__all__ = [
    "LEFT",
    "RIGHT",
    "ClassicalSegmenter",
    "LungMask",
    "LungSegmenter",
    "LungmaskSegmenter",
    "TotalSegmentatorSegmenter",
    "density",
    "make_segmenter",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "LEFT": "mask",
        "RIGHT": "mask",
        "ClassicalSegmenter": "classical",
        "LungMask": "mask",
        "LungSegmenter": "segmenter",
        "LungmaskSegmenter": "lungmask_unet",
        "TotalSegmentatorSegmenter": "totalsegmentator_lobes",
        "density": "measures",
        "make_segmenter": "segmenter",
    },
)
