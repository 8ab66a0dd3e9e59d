"""Labels from Segmentation objects and structure sets lie where those of a volume file lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_labels import read_dicom_labels
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.label_map import image_of, read_label_map
from tests.ctplatform.imaging.labelled import rings_of, write_segmentation, write_structures
from tests.ctplatform.scans import chest, rotated, with_array


def on(image: sitk.Image, labels: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(
        sitk.Resample(labels, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8)
    )


def ring(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    points = np.stack([np.cos(angle) * radius, np.sin(angle) * radius, np.zeros(120)], axis=1)
    return points + centre


class TestSegmentation:
    @pytest.mark.parametrize("degrees", [0.0, 12.0])
    def test_segments_lie_where_the_mask_lies(self, tmp_path: Path, degrees: float) -> None:
        image = rotated(chest(), degrees=degrees)
        hu_ZYX = sitk.GetArrayFromImage(image)
        dark, bright = np.zeros(hu_ZYX.shape, bool), hu_ZYX > 20
        dark[4:15] = hu_ZYX[4:15] < -700
        write_dicom_series(image, tmp_path / "ct", header={"PatientID": "p"})
        file = write_segmentation(
            tmp_path / "seg.dcm", tmp_path / "ct", {"Emphysema": dark, "normal": bright & ~dark}
        )
        labels = read_label_map(str(file), {"normal": 1, "emphysema": 2})
        assert np.array_equal(on(image, labels) == 2, dark)
        assert np.array_equal(on(image, labels) == 1, bright & ~dark)
        by_number = read_label_map(str(file), {"first": 1, "second": 2})
        assert np.array_equal(on(image, by_number) == 1, dark)
        with pytest.raises(ScanError) as caught:
            read_label_map(str(file), {"normal": 1})
        assert caught.value.code == "label-map"

    def test_probabilities_are_refused(self, tmp_path: Path) -> None:
        image = chest()
        write_dicom_series(image, tmp_path / "ct", header={"PatientID": "p"})
        file = write_segmentation(
            tmp_path / "seg.dcm", tmp_path / "ct", {"a": sitk.GetArrayFromImage(image) < -700}
        )
        data = pydicom.dcmread(file)
        data.SegmentationType = "FRACTIONAL"
        data.save_as(file)
        with pytest.raises(ScanError, match="fractional"):
            read_dicom_labels(file)


class TestStructureSet:
    def test_contours_are_filled_and_cut_holes(self, tmp_path: Path) -> None:
        heights = np.arange(-40, 40, 2.5)
        rings = [ring((10.0, -5.0, z), 30.0) for z in heights] + [
            ring((10.0, -5.0, z), 12.0) for z in heights
        ]
        file = write_structures(tmp_path / "s.dcm", {"Nodule": rings, "other": [ring((0, 0, 0.0), 1.0)]})
        stored = read_dicom_labels(file)
        assert stored.names == {1: "nodule", 2: "other"}
        volume = stored.volume
        assert volume.spacing[2] == pytest.approx(2.5)
        area = (volume.values_ZYX[3] == 1).sum() * volume.spacing[0] * volume.spacing[1]
        assert area == pytest.approx(np.pi * (30**2 - 12**2), rel=0.01)
        labels = image_of((volume.values_ZYX == 1).astype(np.uint8), volume)
        facts = sitk.LabelShapeStatisticsImageFilter()
        facts.Execute(labels)
        np.testing.assert_allclose(facts.GetCentroid(1), (10.0, -5.0, heights.mean()), atol=0.1)

    def test_a_mask_as_contours(self, tmp_path: Path) -> None:
        image = chest()
        dark = with_array(image, (sitk.GetArrayFromImage(image) < -700).astype(np.uint8))
        file = write_structures(tmp_path / "s.dcm", {"nodule": rings_of(dark)})
        labels = read_label_map(str(file), {"nodule": 1})
        assert np.array_equal(on(image, labels) > 0, sitk.GetArrayFromImage(dark) > 0)

    def test_contours_across_the_slices_are_refused(self, tmp_path: Path) -> None:
        sagittal = ring((0.0, 0.0, 0.0), 20.0)[:, [2, 0, 1]]
        with pytest.raises(ScanError, match="axial planes"):
            read_dicom_labels(write_structures(tmp_path / "s.dcm", {"nodule": [sagittal]}))
        with pytest.raises(ScanError, match="no closed contours"):
            read_dicom_labels(write_structures(tmp_path / "e.dcm", {"nodule": []}))


def test_other_files_are_refused(tmp_path: Path) -> None:
    write_dicom_series(chest(), tmp_path / "ct")
    (tmp_path / "text.dcm").write_text("hello")
    for file in (tmp_path / "ct" / "0001.dcm", tmp_path / "text.dcm"):
        with pytest.raises(ScanError) as caught:
            read_dicom_labels(file)
        assert caught.value.code == "label-map"
