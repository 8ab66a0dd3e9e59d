"""The surface of a lung mask on a fine grid: by density, or by shape where density says nothing; 0 beyond the scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.imaging.label_map import image_of, read_labels
from ctplatform.imaging.volume import read_volume
from ctplatform.lungs.coarse_grid import shrink
from ctplatform.lungs.fine_mask import OUTSIDE_HU, fine_mask
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
from tests.ctplatform.lungs.diseased import diseased
from tests.ctplatform.lungs.masks import SEGMENT, dice, edited, fine_on_grid, on_grid

EDGE_MM = 20.3


def scene(*, inside: float = -850, beyond: float = 40) -> tuple[sitk.Image, sitk.Image]:
    """A scan of 1 mm voxels, two balls of lung in tissue, and its mask on a grid of 3 mm."""
    z, y, x = np.meshgrid(*[np.arange(n, dtype=float) for n in (60, 60, 120)], indexing="ij")
    away = [np.sqrt((z - 30) ** 2 + (y - 30) ** 2 + (x - at) ** 2) for at in (30, 90)]
    hu = np.where(np.minimum(*away) < EDGE_MM, inside, beyond)
    image = sitk.GetImageFromArray(hu.astype(np.int16))
    contrast = np.where(np.minimum(*away) < EDGE_MM, -850, 40)
    coarse = shrink(edited(image, contrast), 3.0)
    mask = sitk.GetArrayFromImage(coarse) < -450
    side = np.where(np.arange(mask.shape[2]) < mask.shape[2] // 2, RIGHT, LEFT)
    labels = sitk.GetImageFromArray((mask * side).astype(np.uint8))
    labels.CopyInformation(coarse)
    return image, labels


def test_a_surface_that_density_shows_is_right():
    image, labels = scene()
    found = sitk.GetArrayFromImage(fine_mask(image, labels))
    copied = on_grid(LungMask(labels, {}), image)
    lung = sitk.GetArrayFromImage(image) < -450
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(fine_mask(image, labels, on=image)))
    assert dice(found > 0, lung) > 0.999 > 0.97 > dice(copied > 0, lung)
    assert set(np.unique(found[:, :, :60])) == {0, RIGHT}
    assert set(np.unique(found[:, :, 60:])) == {0, LEFT}


@pytest.mark.parametrize(("inside", "beyond"), [(40, 40), (-850, -850)])
def test_where_density_says_nothing_the_shape_decides(inside, beyond):
    """Consolidation of a network's mask keeps its size, and so does lung at an airway."""
    image, labels = scene(inside=inside, beyond=beyond)
    found = sitk.GetArrayFromImage(fine_mask(image, labels)) > 0
    true = sitk.GetArrayFromImage(scene()[0]) < -450
    assert dice(found, true) > 0.96
    assert abs(found.sum() / true.sum() - 1) < 0.04


def test_on_another_grid_the_surface_is_the_same_and_beyond_the_scan_there_is_none():
    image, labels = scene()
    open_below = edited(
        image, np.where(np.arange(60)[:, None, None] < 20, -850, sitk.GetArrayFromImage(image))
    )
    kept = sitk.GetArrayFromImage(labels)
    kept[:6] = np.where(np.arange(kept.shape[2]) < kept.shape[2] // 2, RIGHT, LEFT)
    whole = sitk.GetImageFromArray(kept)
    whole.CopyInformation(labels)
    grid = sitk.Image([60, 36, 40], sitk.sitkUInt8)
    grid.SetOrigin([0.0, -5.0, -12.0])
    grid.SetSpacing([2.0] * 3)
    on = sitk.Resample(open_below, grid, sitk.Transform(), sitk.sitkLinear, OUTSIDE_HU, sitk.sitkInt16)
    found = sitk.GetArrayFromImage(fine_mask(open_below, whole, on=on))
    hu = sitk.GetArrayFromImage(on)
    assert (found[hu == OUTSIDE_HU] == 0).all()
    assert (found[6] > 0)[hu[6] > OUTSIDE_HU].all()  # the first slice of the scan, all of it lung
    balls = hu[18:] > OUTSIDE_HU
    assert dice((found[18:] > 0)[balls], (hu[18:] < -450)[balls]) > 0.99


def test_a_grid_that_lies_elsewhere_has_no_lung():
    image, labels = scene()
    grid = sitk.Image([8, 8, 8], sitk.sitkUInt8)
    grid.SetOrigin([500.0, 0.0, 0.0])
    on = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, OUTSIDE_HU, sitk.sitkInt16)
    result = fine_mask(image, labels, on=on)
    assert result.GetOrigin() == grid.GetOrigin()
    assert not sitk.GetArrayViewFromImage(result).any()


def test_both_lungs_of_a_child():
    """Its voxels are 1.2 x 1.2 x 1.8 mm; copied to them, the mask of 2.5 x 2.5 x 3.7 mm has 0.975 and 0.970."""
    image, truth = diseased("child", 2)
    true, mask = sitk.GetArrayViewFromImage(truth), SEGMENT(image)
    found, copied = fine_on_grid(mask, image), on_grid(mask, image)
    for label in (RIGHT, LEFT):
        assert dice(found == label, true == label) > 0.99 > 0.98 > dice(copied == label, true == label)


def test_both_lungs_of_a_real_scan(real_ct):
    folder: Path = real_ct / "lidc_0001"
    image = read_volume(folder / "cxr.nii.gz").image
    stored = read_labels(str(folder / "mask.nii.gz"))
    values = stored.volume.values_ZYX.astype(np.uint8)
    contours = sitk.Resample(
        image_of(values, stored.volume), image, sitk.Transform(), sitk.sitkNearestNeighbor
    )
    found = fine_on_grid(SEGMENT(image), image)
    lobes = sitk.GetArrayFromImage(contours)
    for label, of_label in ((RIGHT, (12, 13, 14)), (LEFT, (10, 11))):
        assert dice(found == label, np.isin(lobes, of_label)) > 0.98
