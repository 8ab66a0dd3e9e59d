"""Measures of lung masks against NumPy on known lungs."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.lungs.measures import density
from tests.ctplatform.lungs.masks import SEGMENT


def test_measures_say_what_is_there(subject):
    image, truth = subject
    measures = SEGMENT(image).measures
    litres = (sitk.GetArrayViewFromImage(truth) > 0).sum() * np.prod(image.GetSpacing()) / 1e6
    assert measures["volume_l"] == pytest.approx(litres, rel=0.08)
    assert measures["volume_l"] == pytest.approx(measures["right_l"] + measures["left_l"])
    assert measures["cut_top_cm2"] == measures["cut_bottom_cm2"] == measures["cut_side_cm2"] == 0


def test_density_against_numpy(subject):
    image, truth = subject
    hu = sitk.GetArrayViewFromImage(image)[sitk.GetArrayViewFromImage(truth) > 0]
    measured = density(image, truth)
    assert measured["laa950"] == pytest.approx(np.mean(hu < -950))
    assert measured["perc15"] == pytest.approx(np.percentile(hu, 15), abs=1)
    assert measured["mean_hu"] == pytest.approx(np.maximum(hu, -1024).mean())
    assert measured["volume_l"] == pytest.approx(hu.size * np.prod(image.GetSpacing()) / 1e6)
