"""A scene on its grid: field of view."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.phantom import (
    PhantomSubject,
)
from ctplatform.phantom.anatomy import Tube
from ctplatform.phantom.grid import Box
from ctplatform.phantom.parameters import draw
from ctplatform.phantom.scene import Scene, paint_tube


def test_scan_covers_the_lungs_with_margin(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        lungs = sitk.GetArrayFromImage(subject.lungs) > 0
        spacing = subject.lungs.GetSpacing()[::-1]
        for axis in range(3):
            present = np.flatnonzero(lungs.any(axis=tuple({0, 1, 2} - {axis})))
            free = min(present[0], lungs.shape[axis] - 1 - present[-1]) * spacing[axis]
            assert free >= 14, (subject.scan_id, axis)


def test_a_piece_on_another_grid_is_the_same_anatomy() -> None:
    """Rendered at twice the spacing, the lungs and lesions are those of the fine grid."""
    scene = Scene.build(draw(1, seed=3, spacing_mm=3.0))
    fine = scene.field_of_view()
    coarse = Box(fine.start, fine.spacing * 2, (fine.size + 1) // 2)
    one, other = scene.render(fine), scene.render(coarse)
    every_second = one.lungs[::2, ::2, ::2]
    assert every_second.shape == other.lungs.shape
    assert (every_second == other.lungs).mean() > 0.999
    assert (one.lobes[::2, ::2, ::2] == other.lobes).mean() > 0.995
    share = [float(np.mean(r.disease[r.lungs > 0] > 0)) for r in (one, other)]
    assert share[0] == pytest.approx(share[1], rel=0.25, abs=0.01)


def test_tubes_have_their_density_and_width() -> None:
    box = Box(np.zeros(3), np.full(3, 1.0), np.array([40, 40, 40]))
    tube = Tube(np.array([20.0, 20.0, -50.0]), np.array([20.0, 20.0, 90.0]), 5.0, -990.0)
    hu = np.zeros(box.shape, np.float32)
    paint_tube(hu, box, tube)
    assert hu[20, 20, 20] == -990
    assert hu[20].sum() / -990 == pytest.approx(np.pi * 25, rel=0.03)
    wide = np.zeros(box.shape, np.float32)
    paint_tube(wide, box, tube, grow_mm=3.0, value=20.0)
    assert wide[20].sum() / 20 == pytest.approx(np.pi * 64, rel=0.03)
    outside = np.zeros(box.shape, np.float32)
    paint_tube(outside, box, Tube(tube.start + 500, tube.end + 500, 5.0, -990.0))
    assert not outside.any()
