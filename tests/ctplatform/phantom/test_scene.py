"""A scene on its grid: field of view."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ctplatform.phantom import (
    PhantomSubject,
)


def test_scan_covers_the_lungs_with_margin(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        lungs = sitk.GetArrayFromImage(subject.lungs) > 0
        spacing = subject.lungs.GetSpacing()[::-1]
        for axis in range(3):
            present = np.flatnonzero(lungs.any(axis=tuple({0, 1, 2} - {axis})))
            free = min(present[0], lungs.shape[axis] - 1 - present[-1]) * spacing[axis]
            assert free >= 14, (subject.scan_id, axis)
