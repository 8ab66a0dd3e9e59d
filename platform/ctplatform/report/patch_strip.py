"""The same place in several scans, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image as Picture

SIDE, GAP = 160, 6  # pixels


def patch_strip(patches: Sequence[np.ndarray], *, window: Sequence[float]) -> tuple[bytes, int, int]:
    """PNG of the middle axial slices, with its width and height in pixels.

    Args:
        patches: HU, [D, H, W] each.
        window: HU of black and of white.
    """
    strip = Picture.new("L", (len(patches) * (SIDE + GAP) - GAP, SIDE), 255)
    low, high = window
    for place, hu_DHW in enumerate(patches):
        grey = np.clip((hu_DHW[len(hu_DHW) // 2].astype(float) - low) / (high - low), 0, 1) * 255
        tile = Picture.fromarray(grey.astype(np.uint8)).resize((SIDE, SIDE), Picture.Resampling.BICUBIC)
        strip.paste(tile, (place * (SIDE + GAP), 0))
    stream = io.BytesIO()
    strip.save(stream, "PNG", optimize=True)
    return stream.getvalue(), strip.width, strip.height
