"""Verdicts: thresholds, words, and what real and synthetic scans come out as."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import LungsConfig, QualityConfig, RegistrationConfig
from ctplatform.config.recipe import PhantomConfig
from ctplatform.imaging.volume import Volume, read_volume
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.phantom import make_subject
from ctplatform.preparation.quality import assess, measure
from ctplatform.registration.affine_registration import Registration, register
from ctplatform.registration.template import Template
from tests.ctplatform.chest import lung_image
from tests.ctplatform.preparation.phantoms import mirrored, phantom_scan, unregistered

CONFIG = QualityConfig.model_validate({})
GOOD = {
    "volume_l": 5.0,
    "side_ratio": 1.15,
    "cut_top_cm2": 0.0,
    "cut_bottom_cm2": 0.0,
    "cut_side_cm2": 0.0,
    "dice": 0.9,
    "dice_right": 0.9,
    "dice_left": 0.9,
    "determinant": 0.9,
    "sv_min": 0.9,
    "sv_max": 1.1,
    "inside": 0.99,
    "air_hu": -995.0,
    "mirrored": 0.02,
    "heart_left_mm": 10.0,
    "liver_right": 0.2,
}


def test_a_good_scan_has_no_reasons():
    verdict = assess(GOOD, CONFIG, notes=("the lungs touch each other",))
    assert verdict.state == "accepted"
    assert verdict.reasons == ()


@pytest.mark.parametrize(
    ("name", "value", "state", "words"),
    [
        ("cut_bottom_cm2", 80.0, "flagged", "cut off at the bottom"),
        ("cut_bottom_cm2", 250.0, "rejected", "cut off at the bottom"),
        ("cut_top_cm2", 250.0, "rejected", "cut off at the top"),
        ("cut_top_cm2", 65.0, "rejected", "cut off at the top"),
        ("cut_top_cm2", 55.0, "flagged", "cut off at the top"),
        ("cut_side_cm2", 80.0, "flagged", "field of view"),
        ("volume_l", 0.5, "rejected", "very small"),
        ("volume_l", 1.2, "flagged", "very small"),
        ("volume_l", 10.0, "flagged", "very large"),
        ("side_ratio", 0.4, "flagged", "right lung is much smaller"),
        ("side_ratio", math.inf, "flagged", "right lung is much larger"),
        ("dice", 0.4, "rejected", "atlas badly"),
        ("dice", 0.65, "flagged", "atlas badly"),
        ("dice_left", 0.5, "flagged", "left lung"),
        ("dice_right", 0.5, "flagged", "right lung"),
        ("determinant", 0.2, "flagged", "volume ratio 0.20"),
        ("sv_min", 0.3, "flagged", "shrinks"),
        ("sv_max", 1.9, "flagged", "stretches"),
        ("inside", 0.3, "rejected", "30%"),
        ("inside", 0.8, "flagged", "80%"),
        ("base_step_mm", 70.0, "flagged", "the right lung ends 70 mm higher than the left one"),
        ("base_step_mm", -60.0, "flagged", "the left lung ends 60 mm higher than the right one"),
        ("opaque_right", 0.3, "flagged", "30% of where the right lung should be is as dense as tissue"),
        ("opaque_left", 0.2, "flagged", "20% of where the left lung should be is as dense as tissue"),
        ("free_air_ml", 400.0, "flagged", "400 ml of air at the lungs are as dark as room air"),
        ("dark_share", 0.45, "flagged", "at least 45% of each lung is as dark as room air"),
        ("dark_share", 0.60, "rejected", "at least 60% of each lung is as dark as room air"),
        ("air_hu", -870.0, "rejected", "air outside the lungs lies at -870"),
        ("air_hu", -920.0, "flagged", "air outside the lungs lies at -920"),
        ("mirrored", 0.8, "flagged", "mirrored left-right (probability 80%)"),
        ("mirrored", 0.99, "rejected", "mirrored left-right (probability 99%)"),
    ],
)
def test_each_measure_has_its_words(name, value, state, words):
    verdict = assess({**GOOD, name: value}, CONFIG)
    assert verdict.state == state
    assert any(words in reason for reason in verdict.reasons)
    assert verdict.cause == name


def test_rejection_wins_and_says_everything():
    bad = {**GOOD, "dice": 0.3, "cut_top_cm2": 50.0}
    verdict = assess(bad, CONFIG, notes=("only one lung was found",))
    assert verdict.state == "rejected"
    assert len(verdict.reasons) == 3
    assert "Dice" in verdict.reasons[0]  # what rejects comes first
    assert verdict.reasons[-1] == "only one lung was found"


def test_missing_measures_are_not_judged():
    assert assess({}, CONFIG).state == "accepted"
    assert assess({"dice": math.nan}, CONFIG).state == "accepted"


def test_thresholds_come_from_the_config():
    strict = QualityConfig.model_validate({"flag_dice": 0.95})
    assert assess(GOOD, strict).state == "flagged"


def test_measure_of_a_known_affine():
    labels = lung_image(spacing=4.0)
    hu = np.where(sitk.GetArrayViewFromImage(labels) > 0, -860, 30).astype(np.int16)
    image = sitk.GetImageFromArray(hu)
    image.CopyInformation(labels)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.5, 1.0, 1.5])
    measures = measure(
        Volume(image, (), {}),
        LungMask(labels, {"cut_top_cm2": 3.0}),
        Registration(affine, 0.9, 0.8, 0.7, 5),
        None,
    )
    assert measures["determinant"] == pytest.approx(0.75)
    assert (measures["sv_min"], measures["sv_max"]) == pytest.approx((0.5, 1.5))
    assert measures["mean_hu"] == pytest.approx(-860)
    assert measures["laa950"] == 0
    assert measures["cut_top_cm2"] == 3.0
    assert "inside" not in measures
    assert all(isinstance(value, float) for value in measures.values())


def shifted(image: sitk.Image, hu: int) -> sitk.Image:
    """A wrong rescale intercept."""
    return sitk.Clamp(image + hu, sitk.sitkInt16, -1024, 3071)


@pytest.fixture(scope="module", params=[0, 2])
def phantom(request) -> sitk.Image:
    return phantom_scan(request.param)


def test_air_is_measured_where_it_is(phantom):
    assert unregistered(phantom)["air_hu"] == pytest.approx(-1000, abs=25)
    for wrong, states in ((110, ("flagged", "rejected")), (150, ("rejected",))):
        verdict = assess(unregistered(shifted(phantom, wrong)), CONFIG)
        assert verdict.state in states
        assert any("not HU: air outside the lungs lies at" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("label", [RIGHT, LEFT])
@pytest.mark.parametrize("part", ["upper", "lower"])
def test_a_consolidated_part_of_a_lung_is_flagged(label, part):
    """Half of one lung as dense as muscle: the mask leaves it out, and the scan does not pass unnoticed."""
    config = PhantomConfig.model_validate({"spacing_mm": 3.0})
    atlas, made = make_subject(0, config=config), make_subject(2, config=config)
    template = Template(sitk.DICOMOrient(atlas.lungs, "LPS"), RegistrationConfig.model_validate({}))
    image, true = (sitk.DICOMOrient(i, "LPS") for i in (made.image, made.lungs))

    def verdict(scan: sitk.Image):
        mask = make_segmenter(LungsConfig.model_validate({}))(scan)
        registration = register(mask.labels, template, RegistrationConfig.model_validate({}))
        return assess(measure(Volume(scan, (), {}), mask, registration, None, template), CONFIG)

    assert verdict(image).reasons == ()
    hu, lung = sitk.GetArrayFromImage(image), sitk.GetArrayViewFromImage(true) == label
    middle = round(np.median(np.nonzero(lung)[0]))
    lung[middle:] &= part == "upper"
    lung[:middle] &= part == "lower"
    hu[lung] = np.random.default_rng(0).normal(40, 20, lung.sum())
    filled = sitk.GetImageFromArray(hu)
    filled.CopyInformation(image)
    found = verdict(filled)
    assert found.state in ("flagged", "rejected")
    assert found.reasons


REAL = Path(os.environ.get("DRASCLR_REAL_CT", Path(__file__).parents[4] / "shared/ct"))
WHOLE = {
    "cip_ct64": "cip_ct64/ct-64.nrrd",
    "lung_dx_a0001": "lung_dx_a0001/dicom",
    "lidc_0001": "lidc_0001/cxr.nii.gz",
    "lung2": "pyradiomics_lung/lung2_image.nrrd",
}
DISEASED = {
    "lung_dx_a0002": ("lung_dx_a0002/dicom", "right"),  # a tumour of the right hilum, and what lies behind it
    "4dlung_113": ("4dlung_113/dicom", "left"),  # a tumour beside a wide mediastinum, and a small left lung
}
PARTIAL = {
    "lung1": ("pyradiomics_lung/lung1_image.nrrd", "flagged", "bottom"),
    "bases": ("partial_bases_crlm1004/dicom", "rejected", "top"),
    "apex": ("partial_apex_lungfcp/dicom", "rejected", "bottom"),
}


@pytest.mark.real_ct
class TestRealScans:
    """Read, masked and registered to the published atlas, judged by the default thresholds."""

    @pytest.fixture(scope="class")
    @staticmethod
    def template() -> Template:
        if not REAL.is_dir():
            pytest.skip(f"no real CTs in {REAL}; set DRASCLR_REAL_CT")
        path = REAL.parent / "atlas" / "atlas_lung_mask.nii.gz"
        if not path.is_file():
            pytest.skip(f"no published atlas at {path}")
        return Template.read(path)

    @staticmethod
    def verdict(path: str, template: Template):
        volume = read_volume(str(REAL / path))
        mask = make_segmenter(LungsConfig.model_validate({}))(volume.image)
        registration = register(mask.labels, template, RegistrationConfig.model_validate({}))
        return assess(measure(volume, mask, registration, None, template), CONFIG, mask.notes)

    @pytest.mark.parametrize("name", WHOLE)
    def test_whole_lungs_are_accepted(self, template, name):
        verdict = self.verdict(WHOLE[name], template)
        assert verdict.reasons == ()

    @pytest.mark.parametrize("name", DISEASED)
    def test_lungs_without_air_in_a_part_are_flagged(self, template, name):
        path, side = DISEASED[name]
        verdict = self.verdict(path, template)
        assert verdict.state == "flagged"
        assert len(verdict.reasons) == 1
        assert f"where the {side} lung should be is as dense as tissue" in verdict.reasons[0]

    @pytest.mark.parametrize("name", PARTIAL)
    def test_partial_lungs_are_not_and_it_says_why(self, template, name):
        path, state, end = PARTIAL[name]
        verdict = self.verdict(path, template)
        assert verdict.state == state
        assert f"cut off at the {end} of the scan" in verdict.reasons[0]

    @pytest.mark.parametrize("name", [*WHOLE, *DISEASED, "lung1"])
    def test_mirrored_scans_are_recognised(self, name):
        if not REAL.is_dir():
            pytest.skip(f"no real CTs in {REAL}; set DRASCLR_REAL_CT")
        path = WHOLE.get(name) or (DISEASED | PARTIAL)[name][0]
        verdict = assess(unregistered(mirrored(read_volume(str(REAL / path)).image)), CONFIG)
        assert verdict.state in ("flagged", "rejected")
        assert any("mirrored left-right" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(("shift", "state"), [(0, "accepted"), (-70, "flagged"), (-90, "rejected")])
def test_a_scan_that_is_too_dark_for_the_clamp(phantom, shift: int, state: str) -> None:
    """Air below -1024 cannot be seen in the volume any more: the reader measures it before."""
    mask = make_segmenter(LungsConfig.model_validate({}))(phantom)
    volume = Volume(phantom, (), {}, air_hu=-1000.0 + shift)
    air = measure(volume, mask, None, None)["air_hu"]
    assert assess({"air_hu": air}, CONFIG).state == state


def test_a_scan_without_the_tops_of_the_lungs_is_rejected(phantom) -> None:
    """Cut 30 mm below the highest lung: nothing but the tops is missing."""
    labels = make_segmenter(LungsConfig.model_validate({}))(phantom).labels
    lung = sitk.GetArrayViewFromImage(labels) > 0  # the view does not keep the image
    spacing_mm = phantom.GetSpacing()[2]
    top = np.flatnonzero(lung.any(axis=(1, 2)))[-1] * phantom.GetSize()[2] / len(lung)
    verdict = assess(unregistered(phantom[:, :, : round(top - 30 / spacing_mm)]), CONFIG)
    assert verdict.state == "rejected"
    assert "cut off at the top" in verdict.reasons[0]
