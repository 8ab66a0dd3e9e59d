"""The scanner: orientation of axes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ctplatform.phantom import (
    LEFT,
    RIGHT,
    PhantomSubject,
)


def test_every_orientation_keeps_right_and_left(subjects: list[PhantomSubject]) -> None:
    """The patient's right lung has the smaller physical x (LPS) however the axes are stored."""
    assert len({tuple(np.round(s.image.GetDirection()).tolist()) for s in subjects}) >= 3
    for subject in subjects:
        image = subject.lungs
        voxels = sitk.GetArrayFromImage(image)
        centre = {
            side: image.TransformContinuousIndexToPhysicalPoint(
                np.argwhere(voxels == side)[:, ::-1].mean(axis=0).tolist()
            )
            for side in (RIGHT, LEFT)
        }
        assert centre[LEFT][0] - centre[RIGHT][0] > 80
        assert abs(centre[LEFT][2] - centre[RIGHT][2]) < 40
