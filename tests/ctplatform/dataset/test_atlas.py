"""The stored atlas and template are those that were written."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.dataset.atlas import image_from_bytes, image_to_bytes, read_atlas, read_template
from ctplatform.errors import StageError
from ctplatform.storage.layout import ATLAS, ATLAS_FILE, TEMPLATE_FILE
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.chest import rotation


@pytest.fixture
def template(lungs_ZYX):
    image = sitk.GetImageFromArray(lungs_ZYX)
    image.SetSpacing((4.0, 4.5, 3.5))
    image.SetOrigin((-120.5, 30.25, 7.0))
    image.SetDirection(rotation(np.array([0.1, 1.0, 0.3]), 9.0).ravel().tolist())
    return image


def assert_same(found: sitk.Image, expected: sitk.Image) -> None:
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(expected))
    for of in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        np.testing.assert_allclose(of(found), of(expected), atol=1e-5)  # NIfTI headers hold single precision


def test_an_image_survives_a_round_trip(template):
    data = image_to_bytes(template)
    assert data[:2] == b"\x1f\x8b", "compressed"
    assert image_to_bytes(template) == data
    assert_same(image_from_bytes(data), template)


def test_the_format_follows_from_the_name(template, tmp_path):
    sitk.WriteImage(template, str(tmp_path / "mask.nrrd"))
    assert_same(image_from_bytes((tmp_path / "mask.nrrd").read_bytes(), name="mask.nrrd"), template)


def test_what_a_workspace_holds_is_read(template, small_atlas, tmp_path):
    workspace = Workspace(tmp_path)
    workspace.write_bytes(image_to_bytes(template), ATLAS, TEMPLATE_FILE)
    workspace.write_json(small_atlas.to_json(), ATLAS, ATLAS_FILE)
    assert_same(read_template(workspace), template)
    atlas = read_atlas(workspace)
    assert atlas.hash == small_atlas.hash
    np.testing.assert_array_equal(atlas.neighbours_NK, small_atlas.neighbours_NK)


@pytest.mark.parametrize("read", [read_atlas, read_template])
def test_without_an_atlas(tmp_path, read):
    with pytest.raises(StageError):
        read(Workspace(tmp_path))
