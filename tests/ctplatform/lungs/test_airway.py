"""Trachea and main bronchi in a scan with known airways."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from tests.ctplatform.lungs.masks import SEGMENT, on_grid


def test_trachea_and_main_bronchi_are_no_lung(subject):
    image, truth = subject
    true, hu = sitk.GetArrayFromImage(truth), sitk.GetArrayFromImage(image)
    components = sitk.GetArrayFromImage(
        sitk.ConnectedComponent(sitk.GetImageFromArray(((hu < -900) & (true == 0)).astype(np.uint8)))
    )
    faces = [components[:, :, [0, -1]].ravel(), components[:, [0, -1]].ravel(), [0]]
    outside = np.unique(np.concatenate(faces))
    lung = np.flatnonzero((true > 0).any(axis=(1, 2)))
    upper = components[(lung[0] + lung[-1]) // 2 :]
    sizes = np.bincount(upper[~np.isin(upper, outside)])
    airway = (
        components == sizes.argmax()
    )  # gas in the upper half of the chest that is neither lung nor room air
    height = np.flatnonzero(airway.any(axis=(1, 2))) * image.GetSpacing()[2]
    assert np.ptp(height) > 80
    assert np.ptp(np.nonzero(airway)[2]) * image.GetSpacing()[0] > 40, "both main bronchi"
    assert (on_grid(SEGMENT(image), image)[airway] > 0).mean() < 0.03
