"""One reader for files of every format: the same voxels in the same place, whatever the suffix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.volume_file import read_volume_file
from tests.ctplatform.scans import chest


@pytest.mark.parametrize(
    ("suffix", "form"),
    [("nii", "NIfTI"), ("nii.gz", "NIfTI"), ("nrrd", "NRRD"), ("mha", "MetaImage"), ("mhd", "MetaImage")],
)
def test_voxels_and_place_are_those_of_the_image(tmp_path: Path, suffix: str, form: str) -> None:
    image = chest()
    path = tmp_path / f"scan.{suffix}"
    sitk.WriteImage(image, str(path))
    stored = read_volume_file(path)
    assert stored.source["format"] == form
    np.testing.assert_array_equal(stored.values_ZYX, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(stored.spacing, image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(stored.origin, image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(stored.direction, image.GetDirection(), atol=1e-6)


def test_a_label_map_may_be_one_voxel_thick_where_a_scan_may_not(tmp_path: Path) -> None:
    path = tmp_path / "map.nii"
    sitk.WriteImage(sitk.Image([4, 5, 1], sitk.sitkUInt8), str(path))
    assert read_volume_file(path, least=1).values_ZYX.shape == (1, 5, 4)
    with pytest.raises(ScanError):
        read_volume_file(path)
