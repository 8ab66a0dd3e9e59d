"""Writers of DICOM labels for tests: structure sets by hand, Segmentation objects with highdicom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ctplatform.imaging.dicom_labels import STRUCTURE_SET_CLASS
from tests.ctplatform.imaging.multiframe import item

Rings = list[NDArray[np.float64]]


def write_structures(path: Path, structures: Mapping[str, Rings]) -> Path:
    """A structure set; each ring is a closed contour of points in mm [N, 3]."""
    data = item(SOPClassUID=STRUCTURE_SET_CLASS, SOPInstanceUID=generate_uid(), Modality="RTSTRUCT")
    data.StructureSetROISequence = [
        item(ROINumber=number, ROIName=name) for number, name in enumerate(structures, 1)
    ]
    data.ROIContourSequence = [
        item(
            ReferencedROINumber=number,
            ContourSequence=[
                item(
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(ring),
                    ContourData=[f"{v:.4f}" for v in ring.ravel()],
                )
                for ring in rings
            ],
        )
        for number, rings in enumerate(structures.values(), 1)
    ]
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)
    return path


def rings_of(mask: sitk.Image) -> Rings:
    """Outlines of a mask's pixels in each slice, hole by hole: every run of a row as a rectangle, so none is lost."""
    rings = []
    spacing, origin = mask.GetSpacing(), mask.GetOrigin()
    for z, plane in enumerate(sitk.GetArrayFromImage(mask) > 0):
        for y, row in enumerate(plane):
            ends = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
            for start, stop in ends.reshape(-1, 2):
                corners = [(start, y), (stop, y), (stop, y + 1), (start, y + 1)]
                points = [(x - 0.5, k - 0.5, z) for x, k in corners]
                rings.append(np.array(origin) + np.array(points) * spacing)
    return rings


def write_segmentation(path: Path, folder: Path, segments: Mapping[str, NDArray[np.bool_]]) -> Path:
    """A binary Segmentation object on a series in a folder; masks [z, y, x] in the order of the files."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    images = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    for image in images:
        image.StudyDate, image.StudyTime, image.PatientBirthDate, image.PatientSex = "20200101", "12", "", "O"
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Lung,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, label in enumerate(segments, 1)
    ]
    made = hd.seg.Segmentation(
        images,
        np.stack(list(segments.values()), axis=-1).astype(np.uint8),
        hd.seg.SegmentationTypeValues.BINARY,
        descriptions,
        generate_uid(),
        1,
        generate_uid(),
        1,
        "test",
        "test",
        "1",
        "1",
    )
    made.save_as(path)
    return path
