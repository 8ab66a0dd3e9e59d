"""What is shown of a scan is what its preparation finds: mask, locations, verdict, on a grid of the patient's axes."""

from __future__ import annotations

import json

import numpy as np
import SimpleITK as sitk

from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.imaging.volume import read_volume
from ctplatform.inference.scan_embedding import embed_scan
from ctplatform.report.scan_view import view_scan


def nifti(cohort) -> str:
    return next(str(path) for path in cohort["path"] if str(path).endswith(".nii.gz"))


def test_mask_locations_and_verdict(trained, model, tmp_path):
    path = nifti(trained[2])
    image = read_volume(path).image
    array = sitk.GetArrayFromImage(image)
    labels = np.zeros(array.shape, np.uint8)
    labels[array.shape[0] // 2 :] = 7
    labels[: array.shape[0] // 4] = 9
    stored = sitk.GetImageFromArray(labels)
    stored.CopyInformation(image)
    sitk.WriteImage(stored, str(tmp_path / "labels.nii.gz"))
    view = view_scan(path, name="a", model=model, labels=str(tmp_path / "labels.nii.gz"), spacing_mm=4.0)
    expected = embed_scan(path, model)
    np.testing.assert_allclose(view.centres_mm_N3, expected.centres_mm_N3)
    assert view.verdict.split(":")[0] == expected.verdict.state
    assert set(np.unique(view.mask_ZYX)) == {0, 50, 100}
    volume_l = (view.mask_ZYX > 0).sum() * 4.0**3 / 1e6
    assert abs(volume_l / json.loads(expected.fields["measures"])["volume_l"] - 1) < 0.05
    # Every location's centre lies in the grid, and the HU there are those of the scan.
    index_N3 = np.rint((view.centres_mm_N3 - view.origin_mm) / 4).astype(int)
    inside = expected.inside_N > 0.5
    assert inside.any()
    assert (index_N3[inside] >= 0).all()
    assert (index_N3[inside] < np.array(view.hu_ZYX.shape[::-1])).all()
    x, y, z = (int(v) for v in index_N3[inside][0])
    point = [float(o + 4 * i) for o, i in zip(view.origin_mm, (x, y, z))]
    there = image.EvaluateAtPhysicalPoint(point, sitk.sitkLinear)
    assert abs(int(view.hu_ZYX[z, y, x]) - there) <= 1
    assert view.hu_ZYX.min() >= PADDING_HU
    assert view.names == {1: "7", 2: "9"}
    for z, y, x in np.random.default_rng(0).integers(0, view.labels_ZYX.shape, (50, 3)):
        point = [float(o + 4 * i) for o, i in zip(view.origin_mm, (x, y, z))]
        index = stored.TransformPhysicalPointToIndex(point)
        if all(0 <= i < n for i, n in zip(index, stored.GetSize())):
            value = int(stored[index])
            assert view.names.get(int(view.labels_ZYX[z, y, x]), "0") == str(value)


def test_without_weights_ct_and_mask(trained):
    view = view_scan(nifti(trained[2]), name="a", spacing_mm=6.0)
    assert (view.verdict, len(view.centres_mm_N3), view.labels_ZYX) == ("", 0, None)
    assert (view.mask_ZYX == 50).any()
