"""Phantom scans, as they are and mirrored, for the tests of quality and laterality."""

from __future__ import annotations

import SimpleITK as sitk

from ctplatform.config.preparation import LungsConfig
from ctplatform.config.recipe import PhantomConfig
from ctplatform.imaging.volume import Volume
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.phantom import make_subject
from ctplatform.preparation.quality import measure


def phantom_scan(number: int) -> sitk.Image:
    """A phantom's CT at 3 mm, LPS."""
    config = PhantomConfig.model_validate({"spacing_mm": 3.0})
    return sitk.DICOMOrient(make_subject(number, config=config).image, "LPS")


def mirrored(image: sitk.Image) -> sitk.Image:
    """The voxels with left and right swapped under the same header."""
    swapped = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image)[:, :, ::-1])
    swapped.CopyInformation(image)
    return swapped


def unregistered(image: sitk.Image) -> dict[str, float]:
    """Measures of a scan that was masked only."""
    mask = make_segmenter(LungsConfig.model_validate({}))(image)
    return measure(Volume(image, (), {}), mask, None, None)
