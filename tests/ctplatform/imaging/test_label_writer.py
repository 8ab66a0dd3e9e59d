"""Label maps are written where the scan's voxels are: in the file's own axes, and on the slices of the series."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.label_map import read_label_map
from ctplatform.imaging.label_writer import is_dicom, write_nifti, write_segmentation
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.imaging.multiframe import write_enhanced
from tests.ctplatform.scans import chest, rotated, with_array

CLASSES = {"upper": 1, "lower": 3}


def labels_of(image: sitk.Image) -> sitk.Image:
    """Lungs above and below a slice, with the values of `CLASSES`."""
    hu_ZYX = sitk.GetArrayFromImage(image)
    found = (hu_ZYX < -700).astype(np.uint8)
    found[:8] *= 3
    found[:, :, :4] = 0
    return with_array(image, found)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_a_nifti_file_gets_its_own_axes_back(tmp_path: Path, axes: str) -> None:
    stored = nib.as_closest_canonical(nib.load(nifti(tmp_path / "ras.nii.gz")))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    stored = stored.as_reoriented(turn)
    nib.save(stored, tmp_path / "scan.nii.gz")
    labels = labels_of(read_volume(tmp_path / "scan.nii.gz").image)
    write_nifti(labels, str(tmp_path / "scan.nii.gz"), tmp_path / "out" / "map.nii.gz")
    written = nib.load(tmp_path / "out" / "map.nii.gz")
    assert written.shape == stored.shape
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "scan.nii.gz").affine)
    hu, found = np.asarray(stored.dataobj), np.asarray(written.dataobj)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 1, 3}
    assert (hu[found > 0] < -700).all()
    back = read_label_map(str(tmp_path / "out" / "map.nii.gz"), CLASSES)
    number = np.array([0, 1, 0, 2])[sitk.GetArrayFromImage(labels)]
    there = sitk.Resample(back, labels, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(there), number)


def nifti(path: Path) -> Path:
    sitk.WriteImage(chest(), str(path))
    return path


@pytest.mark.parametrize("degrees", [0.0, 12.0])
def test_a_segmentation_lies_on_the_slices_and_refers_to_the_series(tmp_path: Path, degrees: float) -> None:
    pytest.importorskip("highdicom")
    image = rotated(chest(), degrees=degrees)
    uid = write_dicom_series(image, tmp_path / "ct", header={"PatientID": "p"})
    labels, output = labels_of(image), tmp_path / "out" / "map.dcm"
    assert is_dicom(str(tmp_path / "ct"))
    write_segmentation(
        labels, CLASSES, str(tmp_path / "ct"), output, title="Mine", software="1.2.3", series_uid=uid
    )
    data = pydicom.dcmread(output)
    source = [pydicom.dcmread(file) for file in (tmp_path / "ct").iterdir()]
    (series,) = data.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == uid
    referenced = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referenced == {one.SOPInstanceUID for one in source}
    assert data.StudyInstanceUID == source[0].StudyInstanceUID
    assert data.FrameOfReferenceUID == source[0].FrameOfReferenceUID
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == list(CLASSES)
    back = read_label_map(str(output), CLASSES)
    there = sitk.Resample(back, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    number = np.array([0, 1, 0, 2])[sitk.GetArrayFromImage(labels)]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(there), number)


def test_a_series_that_cannot_be_referred_to_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    uid = write_dicom_series(chest(), tmp_path / "ct", header={"StudyInstanceUID": None})
    with pytest.raises(ScanError, match="no DICOM SEG could refer to the series"):
        write_segmentation(
            labels_of(chest()),
            CLASSES,
            str(tmp_path / "ct"),
            tmp_path / "map.dcm",
            title="Mine",
            software="1",
            series_uid=uid,
        )
    assert not (tmp_path / "map.dcm").exists()


def test_of_a_multi_frame_image_each_frame_is_referred_to(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    image = chest()
    write_dicom_series(image, tmp_path / "ct", header={"PatientID": "p"})
    order = list(np.random.default_rng(0).permutation(image.GetDepth()))
    file = write_enhanced(tmp_path / "ct", tmp_path / "enhanced" / "one.dcm", order=order)
    labels, output = labels_of(image), tmp_path / "map.dcm"
    write_segmentation(labels, CLASSES, str(tmp_path / "enhanced"), output, title="Mine", software="1")
    data, source = pydicom.dcmread(output), pydicom.dcmread(file)
    (series,) = data.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == [
        source.SOPInstanceUID
    ]
    frames = data.PerFrameFunctionalGroupsSequence
    assert len(frames) > 10
    for frame in frames:
        (derived,) = frame.DerivationImageSequence
        (referenced,) = derived.SourceImageSequence
        assert referenced.ReferencedSOPInstanceUID == source.SOPInstanceUID
        number = int(referenced.ReferencedFrameNumber)
        (position,) = frame.PlanePositionSequence
        (own,) = source.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence
        assert position.ImagePositionPatient == own.ImagePositionPatient
    back = read_label_map(str(output), CLASSES)
    there = sitk.Resample(back, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    number = np.array([0, 1, 0, 2])[sitk.GetArrayFromImage(labels)]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(there), number)


def test_several_multi_frame_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    write_dicom_series(chest(), tmp_path / "ct", header={"PatientID": "p"})
    depth = chest().GetDepth()
    for name, order in (("a", range(depth // 2)), ("b", range(depth // 2, depth))):
        file = write_enhanced(tmp_path / "ct", tmp_path / "enhanced" / f"{name}.dcm", order=list(order))
        half = pydicom.dcmread(file)
        half.SOPInstanceUID = half.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        half.save_as(file)
    with pytest.raises(ScanError, match="several multi-frame files"):
        write_segmentation(
            labels_of(chest()),
            CLASSES,
            str(tmp_path / "enhanced"),
            tmp_path / "map.dcm",
            title="Mine",
            software="1",
        )
