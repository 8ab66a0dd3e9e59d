"""Writer of DICOM CT series, for synthetic cohorts and tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STORED_INTERCEPT = -1024


def write_dicom_series(
    image: sitk.Image,
    folder: str | Path,
    *,
    patient: Mapping[str, Any] | None = None,
    header: Mapping[str, Any] | None = None,
    series: str = "1",
) -> str:
    """Write a volume as one CT series, a file a slice (Explicit VR Little Endian, slope 1, intercept -1024).

    The UIDs are hashes of the pixels, the geometry and the other arguments: the same call writes the same files.

    Args:
        image: 3-D, HU, mm, LPS; any orthonormal direction. Slices run along its third axis.
        folder: created if missing.
        patient: DICOM keywords of the patient and study, e.g. {"PatientID": "p1", "StudyDate": "20200101"}. Equal
            `patient` mappings are one study of one person; without one, each series is a study of its own.
        header: further DICOM keywords, which replace those above; a value of None removes the element.
        series: any text; another one gives other UIDs to the same pixels.

    Returns:
        The SeriesInstanceUID.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    hu_ZYX = np.clip(np.rint(sitk.GetArrayViewFromImage(image)), STORED_INTERCEPT - 32768, 31743)
    stored_ZYX = (hu_ZYX.astype(np.int32) - STORED_INTERCEPT).astype("<i2")
    direction = np.array(image.GetDirection()).reshape(3, 3)
    spacing = image.GetSpacing()
    patient_texts = [f"{key}={value}" for key, value in sorted((patient or {}).items())]
    geometry = [str(np.round([*image.GetOrigin(), *spacing, *image.GetDirection()], 4).tolist())]
    content = [_hash(stored_ZYX), *geometry, *patient_texts, series]
    study_uid = generate_uid(entropy_srcs=["study", *(patient_texts or content)])
    series_uid = generate_uid(entropy_srcs=["series", *content])
    common: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientID": "",
        "PatientName": "",
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": series_uid,
        "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame", *content]),
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "StudyID": "",
        "SeriesNumber": 1,
        "AcquisitionNumber": 1,
        "Manufacturer": "",
        "SliceThickness": _decimal(spacing[2]),
        "ImageOrientationPatient": [_decimal(v) for v in (*direction[:, 0], *direction[:, 1])],
        "PixelSpacing": [_decimal(spacing[1]), _decimal(spacing[0])],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored_ZYX.shape[1],
        "Columns": stored_ZYX.shape[2],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleIntercept": STORED_INTERCEPT,
        "RescaleSlope": 1,
        **dict(patient or {}),
    }
    for k, slice_YX in enumerate(stored_ZYX):
        data = pydicom.Dataset()
        values = {
            **common,
            "SOPInstanceUID": generate_uid(entropy_srcs=["image", series_uid, str(k)]),
            "InstanceNumber": k + 1,
            "ImagePositionPatient": [_decimal(v) for v in image.TransformIndexToPhysicalPoint((0, 0, k))],
            **dict(header or {}),
        }
        for keyword, value in values.items():
            if value is not None:
                setattr(data, keyword, value)
        data.PixelData = slice_YX.tobytes()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(folder / f"{k + 1:04d}.dcm", enforce_file_format=True)
    return str(values["SeriesInstanceUID"])


def _hash(array: NDArray[Any]) -> str:
    """SHA-256 over the values of an array in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _decimal(value: float) -> str:
    """A DICOM decimal string (VR DS): at most 16 characters."""
    text = f"{value:.10g}"
    return text if len(text) <= 16 else f"{value:.8g}"
