"""Trachea and main bronchi in a scan with known airways."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.lungs.airway import WALL_MM, find_airway
from ctplatform.lungs.coarse_grid import CoarseGrid
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


def pipe(diameter_mm: float, length_mm: float) -> tuple[CoarseGrid, np.ndarray]:
    """A vertical pipe of air in the middle of a block of tissue, from the top down, voxels of 2 mm; and its mask."""
    z, y, x = np.ogrid[:60, :50, :60]
    air = (((x - 30) * 2) ** 2 + ((y - 25) * 2) ** 2 < (diameter_mm / 2) ** 2) & ((59 - z) * 2 < length_mm)
    return CoarseGrid(np.where(air, -1000, 40).astype(np.int16), (2.0, 2.0, 2.0)), air


@pytest.mark.parametrize("length_mm", [30.0, 80.0])
def test_a_pipe_is_followed_to_its_end(length_mm):
    scan, air = pipe(18.0, length_mm)
    found = find_airway(scan, air)
    assert found.length_mm == pytest.approx(length_mm, abs=2.0)
    assert found.mask_ZYX[air].all()
    assert not (found.mask_ZYX & ~scan.dilate(air, WALL_MM)).any(), "lumen and wall only"


@pytest.mark.parametrize(
    ("diameter_mm", "length_mm"), [(5.0, 80.0), (60.0, 80.0), (18.0, 6.0)], ids=["thin", "wide", "short"]
)
def test_other_gas_is_no_trachea(diameter_mm, length_mm):
    scan, air = pipe(diameter_mm, length_mm)
    found = find_airway(scan, air)
    assert found.length_mm == 0
    assert not found.mask_ZYX.any()
