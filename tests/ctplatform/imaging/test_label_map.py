"""Label maps: classes by their order, geometry kept, anything else refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.label_map import read_label_map
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import array, chest, with_array

VALUES = {"normal": 9, "emphysema": 2, "nodule": 200}


def stored() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.choice(np.array([0, 2, 9, 200], np.uint8), array(chest()).shape)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_values_become_the_numbers_of_their_classes(tmp_path: Path, suffix: str, kind: type) -> None:
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(with_array(chest(), stored().astype(kind)), str(path))
    found = read_label_map(str(path), VALUES)
    expected = sum((stored() == value) * number for number, value in enumerate(VALUES.values(), 1))
    assert np.array_equal(array(found), expected)
    assert found.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_allclose(found.GetOrigin(), chest().GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(found.GetSpacing(), chest().GetSpacing(), atol=1e-3)


def test_by_uri(tmp_path: Path) -> None:
    sitk.WriteImage(with_array(chest(), stored()), str(tmp_path / "a.nii.gz"))
    local = read_label_map(str(tmp_path / "a.nii.gz"), VALUES)
    assert np.array_equal(array(read_label_map((tmp_path / "a.nii.gz").as_uri(), VALUES)), array(local))


def code_of(path: Path) -> str:
    with pytest.raises(ScanError) as caught:
        read_label_map(str(path), VALUES)
    assert path.parent.name not in str(caught.value), "an error must not name the path"
    return caught.value.code


def test_what_is_no_label_map(tmp_path: Path) -> None:
    sitk.WriteImage(with_array(chest(), stored() + 1), str(tmp_path / "other.nii"))
    sitk.WriteImage(chest()[:, :, 3], str(tmp_path / "flat.nii"))
    mask = sitk.Cast(chest() > 0, sitk.sitkUInt8)
    sitk.WriteImage(sitk.Compose(mask, mask, mask), str(tmp_path / "colour.nrrd"))
    (tmp_path / "text.nii.gz").write_text("no map")
    (tmp_path / "map.txt").write_text("no map")
    assert code_of(tmp_path / "none.nii") == "missing-label-map"
    for name in ("other.nii", "flat.nii", "colour.nrrd", "text.nii.gz", "map.txt"):
        assert code_of(tmp_path / name) == "label-map", name


def test_a_value_of_no_class_is_named(tmp_path: Path) -> None:
    labels = stored()
    labels[0, 0, 0] = 7
    sitk.WriteImage(with_array(chest(), labels), str(tmp_path / "a.nii"))
    with pytest.raises(ScanError, match="value 7, which no class has"):
        read_label_map(str(tmp_path / "a.nii"), VALUES)


@pytest.mark.parametrize(("sform", "qform"), [(2, 0), (3, 1), (4, 0), (0, 1), (0, 0)])
def test_a_map_with_the_header_of_its_scan_lies_where_the_scan_lies(
    tmp_path: Path, sform: int, qform: int
) -> None:
    affine = np.array([[-8.0, 0, 0, 100], [0, 0, 11, -50], [0, 9.5, 0, 20], [0, 0, 0, 1]])
    for name, values in (("scan", array(chest())), ("map", (array(chest()) < -500).astype(np.uint8))):
        image = nib.Nifti1Image(values.T, None)
        image.header.set_zooms((8.0, 9.5, 11.0))
        image.set_sform(affine if sform else None, sform)
        image.set_qform(affine if qform else None, qform)
        image.header["pixdim"][1:4] = (8.0, 9.5, 11.0)
        nib.save(image, tmp_path / f"{name}.nii.gz")
    scan = read_volume(tmp_path / "scan.nii.gz").image
    labels = read_label_map(str(tmp_path / "map.nii.gz"), {"air": 1})
    there = sitk.Resample(labels, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 255)
    assert np.array_equal(array(there), array(scan) < -500)


def test_a_map_of_one_slice(tmp_path: Path) -> None:
    sitk.WriteImage(with_array(chest(), stored())[:, :, 3:4], str(tmp_path / "a.nii"))
    assert read_label_map(str(tmp_path / "a.nii"), VALUES).GetSize() == (30, 26, 1)
