"""A phantom scan with known lungs, made once."""

from __future__ import annotations

import pytest
import SimpleITK as sitk

from ctplatform.config.recipe import PhantomConfig
from ctplatform.phantom import make_subject


@pytest.fixture(scope="session")
def subject() -> tuple[sitk.Image, sitk.Image]:
    """A phantom scan and its true lungs."""
    made = make_subject(2, config=PhantomConfig.model_validate({"spacing_mm": 2.2}))
    return sitk.DICOMOrient(made.image, "LPS"), sitk.DICOMOrient(made.lungs, "LPS")
