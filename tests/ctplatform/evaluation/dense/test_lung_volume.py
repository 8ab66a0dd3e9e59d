"""Lung volumes: the grid of the patches, locations, label maps on it."""

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.dataset import shards
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import ScanError
from ctplatform.evaluation.dense.lung_volume import check_on_lungs
from ctplatform.imaging.label_map import read_label_map
from tests.ctplatform.labelled_world import labelled

VALUES = {"normal": 1, "centrilobular": 2, "panlobular": 3, "paraseptal": 4}


def test_a_cube_holds_the_patches_that_the_encoder_was_trained_on(real_volume):
    """A window at an atlas location is the shard's patch there, and gets that location's coordinates."""
    workspace, source, _, volume, _ = real_volume
    atlas = read_atlas(workspace)
    locations, hu_NDHW = shards.read_patches(workspace, source.scan_id)
    centres_mm = np.c_[atlas.centres_mm_N3, np.ones(len(atlas.centres_mm_N3))] @ volume.affine_44.T
    index = (centres_mm @ np.linalg.inv(volume.to_scan_44).T)[:, :3][:, ::-1]
    corners = np.rint(index - 15.5).astype(int)
    inside = ((corners >= 0) & (corners + 32 <= volume.hu_ZYX.shape)).all(1)
    assert inside.sum() >= 5
    for location in np.flatnonzero(inside)[:8]:
        z, y, x = corners[location]
        window = volume.hu_ZYX[z : z + 32, y : y + 32, x : x + 32]
        assert np.abs(window.astype(int) - hu_NDHW[locations == location][0]).max() <= 1
    coordinates = volume.coordinates(atlas, corners[inside] + 15.5)
    np.testing.assert_allclose(
        coordinates, atlas.coordinates_N3[inside], atol=0.02
    )  # half a voxel of rounding
    between = volume.coordinates(atlas, (corners[inside][:1] + corners[inside][1:2]) / 2 + 15.5)
    np.testing.assert_allclose(between[0], coordinates[:2].mean(0), atol=1e-6)


def test_label_maps_that_cannot_be_used_say_why(tmp_path):
    image = sitk.GetImageFromArray(np.full((4, 5, 6), 7, np.uint8))
    sitk.WriteImage(image, str(tmp_path / "map.nii.gz"))
    with pytest.raises(ScanError, match=r"value 7, which no class has.*sweep\.classes"):
        read_label_map(str(tmp_path / "map.nii.gz"), VALUES)
    assert sitk.GetArrayFromImage(read_label_map(str(tmp_path / "map.nii.gz"), {"a": 3, "b": 7})).max() == 2
    with pytest.raises(ScanError, match="no label map"):
        read_label_map(str(tmp_path / "none.nii.gz"), VALUES)
    (tmp_path / "torn.nii.gz").write_bytes(b"no volume")
    with pytest.raises(ScanError, match="cannot be used: the content is no NIfTI image"):
        read_label_map(str(tmp_path / "torn.nii.gz"), VALUES)
    volume, subtypes, _ = labelled(np.random.default_rng(0))
    with pytest.raises(ScanError, match="0% of the label map's voxels lie on the"):
        check_on_lungs(volume, np.where(volume.lungs_ZYX, 0, 1))
    check_on_lungs(volume, subtypes)
