"""The classical segmenter on phantoms with known lungs, on phantoms made difficult, and on a real scan."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.config.recipe import PhantomConfig
from ctplatform.errors import ScanError
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.measures import density
from ctplatform.phantom import make_subject
from tests.ctplatform.lungs.diseased import diseased, gas_beside_the_diaphragm, healthy
from tests.ctplatform.lungs.masks import SEGMENT, dice, edited, on_grid
from tests.ctplatform.scans import REAL_CT, needs_real_ct


@pytest.mark.parametrize("index", [0, 3, 6])
def test_phantoms_right_and_left(index):
    made = make_subject(index, config=PhantomConfig.model_validate({"spacing_mm": 2.2}))
    image, truth = (sitk.DICOMOrient(i, "LPS") for i in (made.image, made.lungs))
    found, true = on_grid(SEGMENT(image), image), sitk.GetArrayViewFromImage(truth)
    for label in (RIGHT, LEFT):
        assert dice(found == label, true == label) > 0.95


def test_cut_scans_show_on_the_end_slices(subject):
    image, _ = subject
    depth = image.GetSize()[2]
    top, bottom = SEGMENT(image[:, :, : depth // 2]).measures, SEGMENT(image[:, :, depth // 2 :]).measures
    assert top["cut_top_cm2"] > 100
    assert top["cut_bottom_cm2"] == 0
    assert bottom["cut_bottom_cm2"] > 100
    assert bottom["cut_top_cm2"] == 0


def test_a_field_of_view_through_the_right_lung_keeps_the_lung(subject):
    """The reconstruction circle cuts the body; what is outside is padding, what is inside is still lung."""
    image, truth = subject
    true = sitk.GetArrayFromImage(truth)
    first = np.flatnonzero((true == RIGHT).any(axis=(0, 1)))[0]
    cut = first + round(20 / image.GetSpacing()[0])
    array = sitk.GetArrayFromImage(image)
    array[:, :, :cut] = -2048
    for case in (edited(image, array), image[int(cut) :, :, :]):
        mask = SEGMENT(case)
        found, expected = (
            on_grid(mask, case),
            true[:, :, cut:] if case.GetSize() != image.GetSize() else true.copy(),
        )
        if case.GetSize() == image.GetSize():
            expected[:, :, :cut] = 0
        assert dice(found == RIGHT, expected == RIGHT) > 0.9
        assert dice(found == LEFT, expected == LEFT) > 0.95
    assert mask.measures["cut_side_cm2"] > 20


def test_stomach_gas_that_opens_into_the_left_lung_is_left_out(subject):
    image, truth = subject
    true, array = sitk.GetArrayFromImage(truth), sitk.GetArrayFromImage(image)
    left = np.argwhere(true == LEFT)
    x, y = np.median(left[:, 2]), np.median(left[:, 1])
    column = np.flatnonzero(true[:, round(y), round(x)] == LEFT)
    spacing = image.GetSpacing()
    z, row, col = np.ogrid[: array.shape[0], : array.shape[1], : array.shape[2]]
    ball_mm = np.sqrt(
        ((col - x) * spacing[0]) ** 2
        + ((row - y) * spacing[1]) ** 2
        + ((z - column[0]) * spacing[2] + 24) ** 2
    )
    gas = (ball_mm < 26) & (true == 0)  # reaches the lung: no wall is left between
    rng = np.random.default_rng(0)
    array[gas] = rng.normal(-995, 15, gas.sum())
    assert gas.sum() * np.prod(spacing) / 1000 > 30
    found = on_grid(SEGMENT(edited(image, array)), image)
    assert (found[gas] > 0).mean() < 0.2
    assert dice(found == LEFT, true == LEFT) > 0.95


def test_bowel_gas_under_the_domes_is_no_lung(subject):
    """Loops of bowel with a wall of a few millimetres, one close under each lung, one as large as a stomach."""
    image, truth = subject
    true, array = sitk.GetArrayFromImage(truth), sitk.GetArrayFromImage(image)
    spacing = image.GetSpacing()
    z, y, x = np.ogrid[: array.shape[0], : array.shape[1], : array.shape[2]]
    gas, rng = np.zeros(array.shape, bool), np.random.default_rng(0)
    for label, radius in ((RIGHT, 20.0), (LEFT, 30.0)):
        lung = np.argwhere(true == label)
        row, column = np.median(lung[:, 1]), np.median(lung[:, 2])
        top = np.flatnonzero(true[:, round(row), round(column)] == label)[0] * spacing[2] - 5  # the wall
        square = ((y - row) * spacing[1]) ** 2 + ((x - column) * spacing[0]) ** 2
        gas |= square + (z * spacing[2] - top + radius) ** 2 < radius**2
    gas &= true == 0
    array[gas] = rng.normal(-995, 15, gas.sum())
    found = on_grid(SEGMENT(edited(image, array)), image)
    assert (found[gas] > 0).mean() < 0.02
    for label in (RIGHT, LEFT):
        assert dice(found == label, true == label) > 0.95


@pytest.mark.parametrize("wall_mm", [8.0, 5.0])
def test_a_thin_chest_wall_holds(subject, wall_mm):
    """Room air up to a few millimetres from the right lung, along its whole side: the coarse grid must not open it."""
    image, truth = subject
    true, array = sitk.GetArrayFromImage(truth), sitk.GetArrayFromImage(image)
    lungs = sitk.GetImageFromArray((true > 0).astype(np.uint8))
    lungs.SetSpacing(image.GetSpacing())
    away_mm = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(lungs, False, False, True))
    slices, _, columns = np.nonzero(true == RIGHT)
    side = np.zeros(true.shape, bool)
    side[slices.min() : slices.max() + 1, :, : round(np.median(columns))] = True
    array[side & (away_mm > 0) & (away_mm <= wall_mm)] = 30
    array[side & (away_mm > wall_mm)] = -1000
    found = on_grid(SEGMENT(edited(image, array)), image)
    assert (found[side & (away_mm > wall_mm)] > 0).sum() < 0.005 * (true == RIGHT).sum()
    for label in (RIGHT, LEFT):
        assert dice(found == label, true == label) > 0.95


def test_foam_under_the_patient_is_no_lung(subject):
    """A mattress as dark as lung, in a shell, as large as a lung."""
    image, truth = subject
    array = sitk.GetArrayFromImage(image)
    array = np.pad(array, ((0, 0), (0, 50), (0, 0)), constant_values=-1000)
    depth = array.shape[1]
    array[:, depth - 44 : depth - 12] = 100
    array[:, depth - 42 : depth - 14] = np.random.default_rng(0).normal(
        -900, 8, array[:, depth - 42 : depth - 14].shape
    )
    padded = sitk.GetImageFromArray(array.astype(np.int16))
    padded.SetSpacing(image.GetSpacing())
    padded.SetOrigin(image.GetOrigin())
    found = on_grid(SEGMENT(padded), padded)
    assert not found[:, depth - 44 :].any()
    assert dice(found[:, : depth - 50] > 0, sitk.GetArrayViewFromImage(truth) > 0) > 0.95


@pytest.mark.parametrize("hu", [-962, -945])
def test_stomach_gas_hardly_darker_than_lung(hu):
    """Its noise must not break it into pieces that have "lung" around them."""
    chest = healthy(2)
    before = chest.hu.copy()
    gas_beside_the_diaphragm(chest, hu=hu)
    gas, image = chest.hu != before, edited(chest.image, chest.hu)
    assert gas.sum() * np.prod(image.GetSpacing()) / 1000 > 100
    assert (on_grid(SEGMENT(image), image)[gas] > 0).mean() < 0.05


def test_an_apex_that_tissue_separates_is_lung():
    image, truth = diseased("an apex split off", 2)
    true = sitk.GetArrayViewFromImage(truth)
    found = on_grid(SEGMENT(image), image)
    parts, _ = ndimage.label(true == RIGHT)
    sizes = np.bincount(parts.ravel())[1:] * np.prod(image.GetSpacing()) / 1000
    assert 30 < sizes[sizes > 5].min() < 60
    apex = parts == 1 + int(np.argmin(np.where(sizes > 5, sizes, np.inf)))
    assert (found[apex] == RIGHT).mean() > 0.9


def test_a_pneumothorax_is_no_lung():
    """Nor emphysema: its air is as dark as room air, in one piece."""
    image, truth = diseased("pneumothorax", 2)
    mask, true = SEGMENT(image), sitk.GetArrayViewFromImage(truth)
    found = on_grid(mask, image)
    assert dice(found == RIGHT, true == RIGHT) > 0.975
    assert mask.measures["free_air_ml"] > 200
    place = image.TransformPhysicalPointToIndex(mask.places["free_air_ml"])
    assert image[place] < -950
    assert density(image, mask.labels)["laa950"] < 0.1


@pytest.mark.parametrize("index", [14, 48])
def test_severe_emphysema_is_lung(index):
    """A third of these lungs is destroyed, and in places as dark as room air over 100 ml in one piece."""
    made = make_subject(index, config=PhantomConfig.model_validate({"spacing_mm": 2.5}))
    image, truth = (sitk.DICOMOrient(i, "LPS") for i in (made.image, made.lungs))
    assert made.labels["emphysema_extent"] > 0.3
    mask, true = SEGMENT(image), sitk.GetArrayViewFromImage(truth)
    assert mask.measures["free_air_ml"] == 0
    assert "dark_share" not in mask.measures
    assert dice(on_grid(mask, image) > 0, true > 0) > 0.97
    # 60 HU too low, half of both lungs is as dark as room air; none of it is taken for air in the pleura.
    dark = SEGMENT(sitk.Clamp(image - 60, sitk.sitkInt16, -1024, 3071))
    assert dark.measures["free_air_ml"] == 0
    assert dark.measures["dark_share"] > 0.4
    assert dice(on_grid(dark, image) > 0, true > 0) > 0.97


@pytest.mark.parametrize("hu", [-1000, 40])
def test_no_lung_is_an_error_that_says_so(hu):
    image = sitk.GetImageFromArray(np.full((40, 60, 60), hu, np.int16))
    image.SetSpacing((3.0, 3.0, 3.0))
    with pytest.raises(ScanError, match="no lung") as caught:
        SEGMENT(image)
    assert caught.value.code == "no-lung"


@needs_real_ct
@pytest.mark.real_ct
def test_lidc_lobes():
    """Dice against the lobes that come with the scan."""
    folder = REAL_CT / "lidc_0001"
    image = sitk.DICOMOrient(sitk.ReadImage(str(folder / "cxr.nii.gz"), sitk.sitkInt16), "LPS")
    truth = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(folder / "mask.nii.gz")), "LPS"))
    found = on_grid(SEGMENT(image), image)
    assert dice(found == LEFT, np.isin(truth, (10, 11))) >= 0.97
    assert dice(found == RIGHT, np.isin(truth, (12, 13, 14))) >= 0.97
    assert (found[truth == 16] > 0).mean() < 0.02  # the trachea
