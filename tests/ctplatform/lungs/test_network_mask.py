"""Labels of a network on the scan's own grid become the mask of a segmenter."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.network_mask import network_mask
from tests.ctplatform.lungs.masks import dice, edited, on_grid


def test_labels_keep_their_sides_and_places(subject):
    image, truth = subject
    true = sitk.GetArrayViewFromImage(truth)
    mask = network_mask(truth, image, spacing_mm=3.0)
    found = on_grid(mask, image)
    for side in (RIGHT, LEFT):
        assert dice(found == side, true == side) > 0.98
    litres = (true > 0).sum() * np.prod(image.GetSpacing()) / 1e6
    assert mask.measures["volume_l"] == pytest.approx(litres, rel=0.02)
    assert mask.notes == ()
    left = network_mask(sitk.Mask(truth, truth == LEFT), image, spacing_mm=3.0)
    assert left.notes == ("only one lung was found",)


def test_no_label_is_an_error_of_the_scan(subject):
    image, truth = subject
    empty = sitk.Cast(edited(image, np.zeros(truth.GetSize()[::-1])), sitk.sitkUInt8)
    with pytest.raises(ScanError, match="no lung was found") as caught:
        network_mask(empty, image, spacing_mm=3.0)
    assert caught.value.code == "no-lung"
