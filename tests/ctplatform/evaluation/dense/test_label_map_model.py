"""A lung volume's map on the grid of its scan; test_kept_maps makes maps, cli/test_label_maps those of whole scans."""

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import StageError
from ctplatform.evaluation.dense.label_map_model import LabelMapModel, on_scan, read_label_map_model
from ctplatform.evaluation.dense.lung_volume import LungVolume
from ctplatform.inference.model_folder import HEAD, LABEL_MAP, model_files


def test_a_map_lies_where_its_lung_volume_lies():
    scan = sitk.Image(40, 30, 20, sitk.sitkInt16)
    scan.SetSpacing((2.0, 2.0, 3.0))
    scan.SetOrigin((-10.0, 5.0, 7.0))
    to_scan = np.eye(4)
    to_scan[0, 1] = 0.1  # a lattice along the atlas's axes may be oblique and sheared
    to_scan[:3, 3] = 6.0, 13.0, 25.0
    numbers = np.zeros((16, 16, 16), np.uint8)
    numbers[4:12, 4:12, 4:12] = 2
    volume = LungVolume(np.zeros(numbers.shape, np.int16), numbers > 0, to_scan, np.eye(4))
    labels = on_scan(volume, numbers, scan, [7, 300])
    assert labels.GetSize() == scan.GetSize()
    assert labels.GetOrigin() == scan.GetOrigin()
    found_ZYX = sitk.GetArrayFromImage(labels)
    assert set(np.unique(found_ZYX)) == {0, 300}
    z, y, x = np.argwhere(found_ZYX > 0).mean(0)
    middle = to_scan @ np.array([7.5, 7.5, 7.5, 1.0])
    found_mm = scan.TransformContinuousIndexToPhysicalPoint((x, y, z))
    np.testing.assert_allclose(found_mm, middle[:3], atol=1.5)
    voxels = (found_ZYX > 0).sum() * np.prod(scan.GetSpacing())
    assert voxels == pytest.approx(8**3, rel=0.25)


def test_amounts_are_shares_or_volumes():
    from ctplatform.evaluation.dense.label_map_model import LabelMapper

    numbers = np.zeros((4, 4, 4), np.uint8)
    numbers[0], numbers[1, 0] = 1, 2
    spacing = np.diag([2.0, 2.0, 2.0, 1.0])
    volume = LungVolume(np.zeros(numbers.shape, np.int16), numbers > 0, spacing, np.eye(4))

    def amounts(kind: str) -> dict[str, float]:
        model = LabelMapModel({"task": {"kind": kind, "classes": {"a": 1, "b": 2}}, "features": {}}, {})
        return LabelMapper(model, None, None, hu_window=(-1024, 240)).amounts(volume, numbers)

    assert amounts("regions") == {"percent_a": 80.0, "percent_b": 20.0}
    assert amounts("structures") == pytest.approx({"ml_a": 16 * 8 / 1000, "ml_b": 4 * 8 / 1000})


def test_other_models_and_damaged_ones_are_refused(tmp_path):
    def write(name, *arguments):
        (tmp_path / name).mkdir()
        for file, data in model_files(*arguments).items():
            (tmp_path / name / file).write_bytes(data)
        return tmp_path / name

    with pytest.raises(StageError, match="makes no label maps"):
        read_label_map_model(write("head", HEAD, {"task": {}}, {"a": np.zeros(1)}))
    card = {"task": {"kind": "regions", "classes": {}}}
    with pytest.raises(StageError, match="it has no bias_C"):
        read_label_map_model(write("map", LABEL_MAP, card, {"weights_CP": np.zeros((2, 2))}))
