#!/usr/bin/env bash
# SimpleITK reads a series of a tilted gantry as an upright volume with a stretched slice distance.
#
# Versions: SimpleITK 2.5.7, pydicom 3.0.2, Python 3.11.
# Input: a CT series whose slices shift along y by 0.7 mm every 2 mm, a gantry tilt of 19.3 degrees; each image has its own
# ImagePositionPatient.
# Behaviour: ImageSeriesReader takes the positions of the first slice and the distance of the positions (2.119 mm, along the
# slope), and the normal of the slices as the third axis: no voxel but those of the first slice is in its place, without a
# warning. Here the last slice is 7.1 mm off.
# Output seen:
#   slice distance along the normal: header 2.0 mm, SimpleITK 2.119 mm
#   last slice: header [0.0, 7.0, 20.0], SimpleITK [0.0, 0.0, 21.19]: 7.1 mm off
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


names = []
for k in range(11):
    names.append(f"{k:02d}.dcm")
    place = [0, round(0.7 * k, 1), 2 * k]
    save(ct(np.full((4, 4), 24), place, InstanceNumber=k + 1, GantryDetectorTilt=19.3), names[-1])
reader = sitk.ImageSeriesReader()
reader.SetFileNames(names)
volume = reader.Execute()
distance = round(volume.GetSpacing()[2], 3)
print(f"slice distance along the normal: header 2.0 mm, SimpleITK {distance} mm")
header = [float(v) for v in dcmread(names[-1]).ImagePositionPatient]
itk = [round(v, 2) for v in volume.TransformIndexToPhysicalPoint((0, 0, 10))]
off = round(float(np.linalg.norm(np.subtract(itk, header))), 1)
print(f"last slice: header {header}, SimpleITK {itk}: {off} mm off")
assert volume.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
assert distance == 2.119
assert off == 7.1
PYTHON
