"""Images whose voxels can be written: SimpleITK gives read-only views, and copies every array that it is given."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray


def empty_image(shape_ZYX: Sequence[int]) -> tuple[sitk.Image, NDArray[np.int16]]:
    """A new int16 image, and an array [z, y, x] that is its memory.

    Write the array before the image is handed to a filter or copied: a copy shares the memory until either is changed
    by SimpleITK. The array keeps the image alive.
    """
    image = sitk.Image([int(n) for n in reversed(shape_ZYX)], sitk.sitkInt16)
    view_ZYX = sitk.GetArrayViewFromImage(image)  # makes the image the only owner of its memory
    memory = (ctypes.c_int16 * view_ZYX.size).from_address(view_ZYX.ctypes.data)
    memory.owner = image  # type: ignore[attr-defined]
    return image, np.ctypeslib.as_array(memory).reshape(view_ZYX.shape)
