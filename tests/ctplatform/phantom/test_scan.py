"""The scanner: orientation of axes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.phantom import (
    LEFT,
    RIGHT,
    PhantomSubject,
)
from ctplatform.phantom.grid import Box
from ctplatform.phantom.parameters import draw
from ctplatform.phantom.scan import acquire, to_image


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


def test_images_keep_every_voxel_at_its_place() -> None:
    """The mark at a position of the scene is at the same physical point in every order and direction of axes."""
    box = Box(np.array([-20.0, -30.0, -40.0]), np.array([2.0, 3.0, 4.0]), np.array([21, 22, 23]))
    array = np.zeros(box.shape, np.int16)
    array[5, 7, 11] = 1
    first = draw(0, seed=0, spacing_mm=2.0).scanner
    orders = {(s.axes, s.flips): s for s in (draw(i, seed=0, spacing_mm=2.0).scanner for i in range(40))}
    assert len(orders) >= 4
    for scanner in orders.values():
        plain = replace(scanner, oblique_deg=(0.0, 0.0, 0.0), shift_mm=first.shift_mm)
        image = to_image(array, box, plain)
        (index,) = np.argwhere(sitk.GetArrayViewFromImage(image))[:, ::-1].tolist()
        expected = box.start + np.array([11, 7, 5]) * box.spacing + np.array(first.shift_mm)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=1e-9)


def test_acquired_voxels_have_noise_padding_and_a_table() -> None:
    parameters = draw(2, seed=0, spacing_mm=3.0)
    scanner = parameters.scanner
    box = Box(np.array([-100.0, -100.0, 0.0]), np.full(3, 3.0), np.array([67, 67, 20]))
    y, x = np.meshgrid(box.axis(1), box.axis(0), indexing="ij")
    body = np.broadcast_to(np.hypot(x, y + 20) < 60, box.shape)
    hu = np.where(body, np.float32(40), np.float32(-1000))
    volume = acquire(hu.copy(), box, parameters)
    again = acquire(hu.copy(), box, parameters)
    np.testing.assert_array_equal(volume, again)
    assert volume.dtype == np.int16
    assert volume[body].mean() == pytest.approx(40 + scanner.offset_hu, abs=2)
    assert volume[body].std() == pytest.approx(scanner.noise_hu, rel=0.2)
    assert set(np.unique(volume[:, 0, 0])) == {scanner.padding_hu}, "corners lie outside the field of view"
    behind = volume[:, int((60 - 20 + 100 + 8) / 3) :, 33]
    assert (behind > -960).mean() > 0.1, "the table"
