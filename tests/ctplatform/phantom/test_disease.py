"""Emphysema: extent, density and place."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.phantom import (
    PhantomSubject,
)
from tests.ctplatform.phantom.reading import CENTRILOBULAR, PANLOBULAR, PARASEPTAL, lps


def test_extent_follows_the_drawn_severity(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        d = subject.parameters.disease
        target = d.centrilobular + d.panlobular + d.paraseptal
        assert subject.labels["emphysema_extent"] == pytest.approx(target, rel=0.5, abs=0.004)


def test_disease_has_its_density_and_its_place(subjects: list[PhantomSubject]) -> None:
    sick = [s for s in subjects if float(s.labels["emphysema_extent"]) > 0.1]
    assert sick
    for subject in sick:
        hu, lungs, bits = lps(subject.image), lps(subject.lungs) > 0, lps(subject.disease)
        healthy = np.median(hu[lungs & (bits == 0)])
        spacing = sitk.DICOMOrient(subject.image, "LPS").GetSpacing()[::-1]
        depth = ndimage.distance_transform_edt(lungs, sampling=spacing)
        height = np.broadcast_to(np.arange(hu.shape[0])[:, None, None], hu.shape)
        for bit in (CENTRILOBULAR, PANLOBULAR, PARASEPTAL):
            ill = (bits & bit) > 0
            if ill.sum() > 500:
                assert np.median(hu[ill]) < healthy - 30
        if ((bits & CENTRILOBULAR) > 0).sum() > 500:
            assert height[(bits & CENTRILOBULAR) > 0].mean() > height[lungs].mean()
        if ((bits & PARASEPTAL) > 0).sum() > 200:
            assert np.median(depth[(bits & PARASEPTAL) > 0]) < 0.6 * np.median(depth[lungs])
