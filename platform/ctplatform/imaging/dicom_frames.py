"""Multi-frame CT: Enhanced CT and Legacy Converted Enhanced CT images, as one `dicom_headers.Slice` a frame.

What a single image has in its header, a frame has in functional groups: in its own item of the per-frame sequence, or
in the shared one. Sources: DICOM PS3.3 A.38 (Enhanced CT), A.70 (Legacy Converted), C.7.6.16 (functional groups),
C.8.15.3 (those of CT).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from ctplatform.imaging.dicom_elements import numbers, rescale, text, words
from ctplatform.imaging.dicom_file import read_file

MULTI_FRAME_CLASSES = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)

KEYWORDS = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""Elements of a header that hold what its frames are."""

_OF_SERIES = {
    "SliceThickness": "PixelMeasuresSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "GantryDetectorTilt": "CTAcquisitionDetailsSequence",
}


def frame_fields(data: pydicom.Dataset, frames: int) -> list[dict[str, Any]]:
    """What the functional groups say of each frame, as fields of `dicom_headers.Slice`; others are the image's own.

    `rescale_type` is the text as stored.
    """
    shared = _items(data, "SharedFunctionalGroupsSequence")[:1]
    per_frame = _items(data, "PerFrameFunctionalGroupsSequence")
    result = []
    for k in range(frames):
        groups = [*per_frame[k : k + 1], *shared]
        position, orientation, measures, values, content, kind, kernel, cardiac, breath, others = (
            _group(groups, name)
            for name in (
                "PlanePositionSequence",
                "PlaneOrientationSequence",
                "PixelMeasuresSequence",
                "PixelValueTransformationSequence",
                "FrameContentSequence",
                "CTImageFrameTypeSequence",
                "CTReconstructionSequence",
                "CardiacSynchronizationSequence",
                "RespiratorySynchronizationSequence",
                "UnassignedPerFrameConvertedAttributesSequence",
            )
        )
        fields: dict[str, Any] = {
            "reconstruction": (
                *words(kernel, "ConvolutionKernel"),
                text(content, "StackID"),
                text(content, "TemporalPositionIndex"),
                text(cardiac, "NominalPercentageOfCardiacPhase"),
                text(breath, "NominalPercentageOfRespiratoryPhase"),
            ),
            "position": numbers(position, "ImagePositionPatient", 3),
            "orientation": numbers(orientation, "ImageOrientationPatient", 6),
            "pixel_spacing": numbers(measures, "PixelSpacing", 2),
        }
        optional = {
            "image_type": tuple(word.upper() for word in words(kind, "FrameType")),
            "acquisition": text(content, "FrameAcquisitionNumber") or text(others, "AcquisitionNumber"),
            "rescale_type": text(values, "RescaleType"),
        }
        fields |= {name: value for name, value in optional.items() if value}
        if values:
            fields["rescale"] = rescale(values)
        result.append(fields)
    return result


def with_shared(data: pydicom.Dataset) -> pydicom.Dataset:
    """The header with slice thickness, kernel and tilt of its first frame in the places of a single image's."""
    groups = [
        *_items(data, "PerFrameFunctionalGroupsSequence")[:1],
        *_items(data, "SharedFunctionalGroupsSequence")[:1],
    ]
    result = pydicom.Dataset()
    result.update({element.tag: element for element in data if element.keyword not in KEYWORDS})
    for keyword, name in _OF_SERIES.items():
        group = _group(groups, name)
        if keyword in group:
            result[keyword] = group[keyword]
    return result


class FrameReader:
    """Stored pixels of single frames; the file that was read last is held.

    Raises:
        ScanError: too-large.
    """

    def __init__(self) -> None:
        self._file: Path | str | None = None
        self._data = pydicom.Dataset()

    def stored(self, file: Path | str, frame: int | None) -> NDArray[Any]:
        """Pixels [y, x] as stored, of a frame, or of a file with one image."""
        if file != self._file:
            self._data, self._file = read_file(file), file
        stored_YX: NDArray[Any] = (
            self._data.pixel_array if frame is None else pixel_array(self._data, index=frame)
        )
        return stored_YX


def _items(data: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    return list(data.get(keyword) or ())


def _group(groups: list[pydicom.Dataset], name: str) -> pydicom.Dataset:
    """The first item of a functional group, of the frame before the shared one; empty if there is none."""
    return next((items[0] for items in (_items(group, name) for group in groups) if items), pydicom.Dataset())
