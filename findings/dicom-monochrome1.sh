#!/usr/bin/env bash
# SimpleITK inverts the stored values of a MONOCHROME1 CT before slope and intercept: air reads as metal.
#
# Versions: SimpleITK 2.5.7, pydicom 3.0.2, Python 3.11.
# Input: a CT slice with PhotometricInterpretation MONOCHROME1, which CT Image Storage allows (PS3.3 C.8.2.1.1.2). It asks for
# white where values are low, after the window (C.7.6.3.1.2), and leaves stored values, and so HU, as they are.
# Behaviour: SimpleITK returns slope x (4095 - stored) + intercept for 12 stored bits, without a warning; for unsigned data
# air (-1000 HU) and metal change places.
# Output seen:
#   MONOCHROME2: SimpleITK [-1000, 40, 3071], slope x stored + intercept [-1000, 40, 3071]
#   MONOCHROME1: SimpleITK [3047, 2007, -1024], slope x stored + intercept [-1000, 40, 3071]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 simpleitk==2.5.7 pydicom==3.0.2
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import numpy as np
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid


def ct(stored, place, **elements):
    """One CT slice: unsigned, HU = stored - 1024."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = CTImageStorage, generate_uid(), "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PatientID, data.StudyInstanceUID, data.SeriesInstanceUID = "P-1", "1.2.3", "1.2.3.4"
    data.FrameOfReferenceUID, data.InstanceNumber = "1.2.3.5", 1
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], place
    data.PixelSpacing, data.SliceThickness = [1, 1], 2
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    data.PixelData = stored.astype("<u2").tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def save(data, name):
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(name, enforce_file_format=True)


stored = np.array([[24, 1064, 4095]])
for kind, expected in (("MONOCHROME2", [-1000, 40, 3071]), ("MONOCHROME1", [3047, 2007, -1024])):
    save(ct(stored, [0, 0, 0], PhotometricInterpretation=kind), "slice.dcm")
    itk = sitk.GetArrayFromImage(sitk.ReadImage("slice.dcm")).ravel().tolist()
    read = dcmread("slice.dcm")
    right = (read.pixel_array * read.RescaleSlope + read.RescaleIntercept).ravel().astype(int).tolist()
    print(f"{kind}: SimpleITK {itk}, slope x stored + intercept {right}")
    assert right == [-1000, 40, 3071]
    assert itk == expected
PYTHON
