"""What a lung mask says of places."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.lungs.mask import middle_voxel


def test_the_middle_voxel_is_in_the_region():
    """A ring's centre of mass is not in it."""
    y, x = np.ogrid[-10:11, -10:11]
    ring = np.zeros((5, 21, 21), bool)
    ring[2] = (np.hypot(y, x) > 6) & (np.hypot(y, x) < 9)
    grid = sitk.Image(21, 21, 5, sitk.sitkUInt8)
    grid.SetSpacing((2.0, 3.0, 4.0))
    grid.SetOrigin((-7.0, 5.0, 100.0))
    place = middle_voxel(grid, ring)
    assert ring[grid.TransformPhysicalPointToIndex(place)[::-1]]
    assert place[2] == pytest.approx(108.0)
