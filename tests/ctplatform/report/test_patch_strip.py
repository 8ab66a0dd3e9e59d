"""Middle axial slices side by side, in the window of grey levels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ctplatform.report.patch_strip import GAP, SIDE, patch_strip


def test_tiles_hold_the_middle_slices():
    dark, light = np.full((2, 8, 8, 8), -1000)
    dark[4], light[4] = -1000, 200
    dark[0] = 200  # another slice
    data, width, height = patch_strip([dark, light], window=(-1000, 200))
    picture = np.asarray(Image.open(io.BytesIO(data)))
    assert picture.shape == (height, width) == (SIDE, 2 * SIDE + GAP)
    assert picture[:, :SIDE].max() == 0
    assert picture[:, -SIDE:].min() == 255
