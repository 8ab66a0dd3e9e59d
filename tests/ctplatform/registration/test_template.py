"""Templates from images and files."""

from __future__ import annotations

import locale

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import RegistrationConfig
from ctplatform.errors import StageError
from ctplatform.registration.template import Template
from tests.ctplatform.chest import lung_image

CONFIG = RegistrationConfig.model_validate({})


def test_template_files(tmp_path, template):
    sitk.WriteImage(lung_image(spacing=2.0), str(tmp_path / "lungs.nii.gz"))
    again = Template.read(tmp_path / "lungs.nii.gz", config=CONFIG)
    np.testing.assert_allclose(again.points_N3, template.points_N3, atol=1e-3)
    (tmp_path / "text.nii.gz").write_text("not an image")
    for bad in ("missing.nii.gz", "text.nii.gz"):
        with pytest.raises(StageError, match=bad):
            Template.read(tmp_path / bad)


def test_reading_leaves_the_locale_as_it_was(tmp_path, template):
    """ITK's reader of VTK files does not."""
    sitk.WriteImage(lung_image(spacing=2.0), str(tmp_path / "lungs.vtk"))
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    before = locale.setlocale(locale.LC_ALL)
    read = Template.read(tmp_path / "lungs.vtk", config=CONFIG)
    assert locale.setlocale(locale.LC_ALL) == before
    np.testing.assert_allclose(read.points_N3, template.points_N3, atol=1e-3)
