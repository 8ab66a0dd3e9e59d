"""Writers of multi-frame CT for tests: Enhanced CT by hand, Legacy Converted Enhanced CT with highdicom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

Group = Callable[[int, Dataset], None]


def item(**elements: object) -> Dataset:
    data = Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


def write_enhanced(
    folder: Path, target: Path, *, order: Sequence[int] | None = None, per_frame: Group | None = None
) -> Path:
    """One Enhanced CT image of a folder's single images.

    Args:
        order: of the frames, as indices of the images; several may be the same one.
        per_frame: changes the functional groups of each frame, by its index.
    """
    images = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    chosen = [images[k] for k in (order if order is not None else range(len(images)))]
    data = Dataset()
    first = images[0]
    for element in first:
        if element.keyword not in (
            "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
            "RescaleIntercept", "InstanceNumber", "AcquisitionNumber", "PixelData",
        ):  # fmt: skip
            data.add(element)
    data.SOPClassUID = EnhancedCTImageStorage
    data.NumberOfFrames = len(chosen)
    data.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[
                item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
            ],
            PlaneOrientationSequence=[item(ImageOrientationPatient=first.ImageOrientationPatient)],
            CTReconstructionSequence=[item(ConvolutionKernel="B30f")],
        )
    ]
    frames = []
    for k, image in enumerate(chosen):
        groups = item(
            PlanePositionSequence=[item(ImagePositionPatient=image.ImagePositionPatient)],
            PixelValueTransformationSequence=[
                item(
                    RescaleSlope=image.RescaleSlope,
                    RescaleIntercept=image.RescaleIntercept,
                    RescaleType="HU",
                )
            ],
            CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
            FrameContentSequence=[item(FrameAcquisitionNumber=1, StackID="1", InStackPositionNumber=k + 1)],
        )
        if per_frame:
            per_frame(k, groups)
        frames.append(groups)
    data.PerFrameFunctionalGroupsSequence = frames
    data.PixelData = b"".join(image.PixelData for image in chosen)
    data.file_meta = first.file_meta
    data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    target.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(target, enforce_file_format=True)
    return target


def rescaled(folder: Path) -> None:
    """Give each image of a series its own slope and intercept, with the same HU."""
    for k, file in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(file)
        stored = np.frombuffer(data.PixelData, "<i2").astype(int)
        data.RescaleIntercept = -1024 - 10 * k
        data.PixelData = (stored + 10 * k).astype("<i2").tobytes()
        data.save_as(file)
