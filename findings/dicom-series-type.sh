#!/usr/bin/env bash
# SimpleITK gives a DICOM series the pixel type of its first file; later slices wrap around or lose their fraction.
#
# Versions: SimpleITK 2.5.7, pydicom 3.0.2, Python 3.11.
# Input: a CT series whose slices have HU of their own range: most are stored in 12 bits, one with metal in 16, one with a
# slope of 0.5. Rescale and stored bits belong to each image (PS3.3 C.7.6.3, C.11.1).
# Behaviour: ImageSeriesReader decodes all files into int16, since the first needs no more: 40000 HU becomes -25536 and
# 49.75 HU becomes 49, without a warning. Alone, each file is read into a type that holds it.
# Output seen:
#   series, int16: [1076.0, 1076.0, 49.0, -25536.0]
#   alone: [1076.0, 1076.0, 49.75, 40000.0]
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


plane = np.full((2, 2), 2100)
slices = [ct(plane, [0, 0, 2 * k], InstanceNumber=k + 1) for k in range(4)]
slices[2].RescaleSlope, slices[2].RescaleIntercept = 0.5, -1000.25
slices[3].BitsStored, slices[3].HighBit = 16, 15
slices[3].PixelData = np.full((2, 2), 41024, "<u2").tobytes()
names = [f"{k}.dcm" for k in range(4)]
for data, name in zip(slices, names):
    save(data, name)
reader = sitk.ImageSeriesReader()
reader.SetFileNames(names)
volume = reader.Execute()
together = sitk.GetArrayFromImage(volume)[:, 0, 0].astype(float).tolist()
alone = [float(sitk.GetArrayFromImage(sitk.ReadImage(name)).ravel()[0]) for name in names]
print(f"series, {sitk.GetArrayViewFromImage(volume).dtype}: {together}")
print(f"alone: {alone}")
assert alone == [1076.0, 1076.0, 49.75, 40000.0]
assert together == [1076.0, 1076.0, 49.0, -25536.0]
PYTHON
