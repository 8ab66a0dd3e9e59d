#!/usr/bin/env bash
# SimpleITK reads the frames of an Enhanced CT in stored order, 1 mm apart, with one frame's rescale for all.
#
# Versions: SimpleITK 2.5.7, pydicom 3.0.2, Python 3.11.
# Input: an Enhanced CT image (PS3.3 A.38) of four frames 2 mm apart. Position and rescale belong to each frame, in the
# per-frame functional groups, and frames may be stored in any order (C.7.6.16).
# Behaviour: SimpleITK rescales all frames as the first one, keeps their stored order, and takes a slice distance of 1 mm, from
# the place of the first frame upwards: wrong HU at wrong places, without an error.
# Output seen:
#   by position: HU [100, 200, 300, 400], 2.0 mm apart from 0.0 mm
#   SimpleITK: HU [300, 100, 676, 176], 1.0 mm apart from 4.0 mm
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


def item(**elements):
    data = Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


order, slopes, intercepts = [2, 0, 3, 1], [1, 1, 2, 1], [-1024, -1024, -3000, -1000]
hu_by_height = [100, 200, 300, 400]
image = ct(np.zeros((2, 2)), [0, 0, 0], SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=4)
image.BitsStored, image.HighBit = 16, 15
image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
for name in (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "RescaleType",
):
    delattr(image, name)
image.SharedFunctionalGroupsSequence = [
    item(
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2, SpacingBetweenSlices=2)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
    )
]
image.PerFrameFunctionalGroupsSequence = [
    item(
        PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.0 * height])],
        PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=shift, RescaleType="HU")],
        FrameContentSequence=[item(StackID="1", InStackPositionNumber=height + 1)],
    )
    for height, slope, shift in zip(order, slopes, intercepts)
]
image.PixelData = b"".join(
    np.full((2, 2), (hu_by_height[height] - shift) // slope, "<u2").tobytes()
    for height, slope, shift in zip(order, slopes, intercepts)
)
save(image, "enhanced.dcm")
read = dcmread("enhanced.dcm")
frames = {}
for stored, groups in zip(read.pixel_array, read.PerFrameFunctionalGroupsSequence):
    values = groups.PixelValueTransformationSequence[0]
    place = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
    frames[place] = int(stored[0, 0] * values.RescaleSlope + values.RescaleIntercept)
right = [frames[place] for place in sorted(frames)]
print(f"by position: HU {right}, {sorted(frames)[1] - min(frames)} mm apart from {min(frames)} mm")
volume = sitk.ReadImage("enhanced.dcm")
itk = sitk.GetArrayFromImage(volume)[:, 0, 0].tolist()
print(f"SimpleITK: HU {itk}, {volume.GetSpacing()[2]} mm apart from {volume.GetOrigin()[2]} mm")
assert right == [100, 200, 300, 400]
assert (itk, volume.GetSpacing()[2], volume.GetOrigin()[2]) == ([300, 100, 676, 176], 1.0, 4.0)
PYTHON
