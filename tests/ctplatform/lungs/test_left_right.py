"""Right and left lung, apart, joined, mirrored and alone."""

from __future__ import annotations

import pytest
import SimpleITK as sitk

from tests.ctplatform.lungs.masks import SEGMENT, edited


def test_a_mirrored_image_swaps_the_sides(subject):
    image, _ = subject
    mirrored = edited(image, sitk.GetArrayFromImage(image)[:, :, ::-1])
    plain, swapped = SEGMENT(image).measures, SEGMENT(mirrored).measures
    assert swapped["right_l"] == pytest.approx(plain["left_l"], rel=0.05)
    assert swapped["left_l"] == pytest.approx(plain["right_l"], rel=0.05)
