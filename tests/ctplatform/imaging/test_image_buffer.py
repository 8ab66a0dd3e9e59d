"""An image and the array that is its memory."""

from __future__ import annotations

import gc

import numpy as np
import SimpleITK as sitk

from ctplatform.imaging.image_buffer import empty_image


def test_what_is_written_is_in_the_image():
    image, voxels_ZYX = empty_image((2, 3, 4))
    assert image.GetSize() == (4, 3, 2)
    assert voxels_ZYX.dtype == np.int16
    voxels_ZYX[:] = np.arange(24).reshape(2, 3, 4)
    assert image[3, 2, 1] == 23
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels_ZYX)


def test_the_array_outlives_the_image():
    _, voxels_ZYX = empty_image((64, 64, 64))
    gc.collect()
    voxels_ZYX[:] = 7
    assert int(voxels_ZYX.sum(dtype=np.int64)) == 7 * 64**3
