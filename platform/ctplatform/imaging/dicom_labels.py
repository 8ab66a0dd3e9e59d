"""Labels in DICOM: Segmentation objects and structure sets, as one integer a voxel with the names of the values.

Sources: DICOM PS3.3 A.51 and C.8.20 (Segmentation), A.19.3 and C.8.8.6 (RT Structure Set, ROI contours).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_elements import numbers
from ctplatform.imaging.dicom_file import read_file
from ctplatform.imaging.dicom_headers import quiet_pydicom
from ctplatform.imaging.volume_file import StoredVolume

SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""

STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
CONTOUR_MM = 0.5
"""Pixels of a grid on which contours are filled; doubled until the grid has at most `MAX_PIXELS` a side."""

MAX_PIXELS = 1024
PLANE_MM = 0.05
"""Up to this far apart, contours lie in one plane, and a contour's points in its plane."""


@dataclass(frozen=True)
class StoredLabels:
    """Labels as a file holds them.

    Attributes:
        volume: values as stored, 0 where nothing is labelled.
        names: value -> name in the file, in lower case; empty where the format has none. They may be free text.
    """

    volume: StoredVolume
    names: dict[int, str] = field(default_factory=dict)


def read_dicom_labels(path: Path) -> StoredLabels:
    """Read a Segmentation object or a structure set.

    Raises:
        ScanError: label-map, another object, or one whose frames or contours make no volume; too-large.
    """
    try:
        with quiet_pydicom():
            data = read_file(path)
            if data.get("SOPClassUID") in SEGMENTATION_CLASSES:
                return _segmentation(data)
            if data.get("SOPClassUID") == STRUCTURE_SET_CLASS:
                return _structure_set(data)
    except ScanError:
        raise
    except Exception:  # a broken file can raise anything in the parser
        raise _unusable("cannot be read") from None
    raise _unusable("is neither a volume file, nor a DICOM SEG, nor an RTSTRUCT")


def _unusable(why: str) -> ScanError:
    return ScanError(
        f"the label map {why}",
        "Give it as NIfTI, NRRD or MetaImage, as DICOM SEG, or as RTSTRUCT with closed contours in the slices",
        code="label-map",
    )


def _segmentation(data: pydicom.Dataset) -> StoredLabels:
    kind = str(data.get("SegmentationType", ""))
    if kind not in ("BINARY", "LABELMAP"):
        raise _unusable(f"is a segmentation of type {kind.lower() or 'unknown'}, not of whole labels")
    names = {int(s.SegmentNumber): str(s.get("SegmentLabel", "")).lower() for s in data.SegmentSequence}
    frames = np.asarray(pixel_array(data))
    frames = frames.reshape(-1, int(data.Rows), int(data.Columns))
    shared = (data.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]

    def group(frame: pydicom.Dataset, name: str) -> pydicom.Dataset:
        found: list[pydicom.Dataset] = list(frame.get(name) or shared.get(name) or ())
        return found[0] if found else pydicom.Dataset()

    items = list(data.PerFrameFunctionalGroupsSequence)
    positions = [numbers(group(f, "PlanePositionSequence"), "ImagePositionPatient", 3) for f in items]
    orientations = {
        numbers(group(f, "PlaneOrientationSequence"), "ImageOrientationPatient", 6) for f in items
    }
    sizes = {numbers(group(f, "PixelMeasuresSequence"), "PixelSpacing", 2) for f in items}
    if not all(positions) or len(orientations) != 1 or len(sizes) != 1 or not all((*orientations, *sizes)):
        raise _unusable("has frames without a position, or of several orientations or pixel spacings")
    row, column = np.array(orientations.pop()).reshape(2, 3)
    normal = np.cross(row, column)
    pixel = sizes.pop()
    heights = np.array(positions) @ normal
    measures = group(items[0], "PixelMeasuresSequence")
    distance = numbers(measures, "SpacingBetweenSlices", 1) or numbers(measures, "SliceThickness", 1)
    step = _step(np.unique(np.round(heights, 3)), distance[0] if distance else 0.0)
    planes = np.rint((heights - heights.min()) / step).astype(int)
    if np.abs(heights - heights.min() - planes * step).max() > 0.1 * step:
        raise _unusable("has frames at uneven distances")
    values_ZYX = np.zeros((int(planes.max()) + 1, *frames.shape[1:]), np.uint16)
    for item, plane, frame in zip(items, planes, frames):
        if kind == "LABELMAP":
            values_ZYX[plane] = np.maximum(values_ZYX[plane], frame)
        else:
            identity = group(item, "SegmentIdentificationSequence")
            values_ZYX[plane][frame > 0] = int(identity.ReferencedSegmentNumber)
    volume = StoredVolume(
        values_ZYX=values_ZYX,
        spacing=(pixel[1], pixel[0], step),
        origin=positions[int(np.argmin(heights))],
        direction=np.stack([row, column, normal], axis=1).ravel().tolist(),
        notes=(),
        source={"format": "DICOM SEG"},
    )
    return StoredLabels(volume, names)


def _structure_set(data: pydicom.Dataset) -> StoredLabels:
    names = {int(s.ROINumber): str(s.get("ROIName", "")).lower() for s in data.StructureSetROISequence}
    contours: list[tuple[int, NDArray[np.float64]]] = []
    for roi in data.ROIContourSequence:
        for contour in roi.get("ContourSequence") or ():
            points_N3 = np.array(contour.ContourData, float).reshape(-1, 3)
            if contour.get("ContourGeometricType") not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                continue
            if np.ptp(points_N3[:, 2]) > PLANE_MM:
                raise _unusable("has contours that do not lie in axial planes")
            contours.append((int(roi.ReferencedROINumber), points_N3))
    if not contours:
        raise _unusable("holds no closed contours")
    heights = np.array([points_N3[0, 2] for _, points_N3 in contours])
    levels = np.unique(np.round(heights, 2))
    step = _step(levels, 0.0)
    low = np.min([points_N3.min(axis=0) for _, points_N3 in contours], axis=0)[:2]
    high = np.max([points_N3.max(axis=0) for _, points_N3 in contours], axis=0)[:2]
    pixel = CONTOUR_MM
    while (high - low).max() / pixel > MAX_PIXELS:
        pixel *= 2
    x, y = (np.arange(low[axis], high[axis] + 2 * pixel, pixel) - pixel for axis in (0, 1))
    planes = np.rint((heights - heights.min()) / step).astype(int)
    values_ZYX = np.zeros((int(planes.max()) + 1, len(y), len(x)), np.uint16)
    for number in sorted({number for number, _ in contours}):
        inside_ZYX = np.zeros(values_ZYX.shape, bool)
        for (roi, points_N3), plane in zip(contours, planes):
            if roi == number:  # contours within others cut holes
                rows, columns = (_reach(axis, points_N3[:, n]) for n, axis in ((1, y), (0, x)))
                inside_ZYX[plane, rows, columns] ^= _inside(points_N3[:, :2], x[columns], y[rows])
        values_ZYX[inside_ZYX] = number
    volume = StoredVolume(
        values_ZYX=values_ZYX,
        spacing=(pixel, pixel, step),
        origin=(float(x[0]), float(y[0]), float(heights.min())),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        notes=(),
        source={"format": "RTSTRUCT"},
    )
    return StoredLabels(volume, names)


def _step(levels: NDArray[np.float64], stored: float) -> float:
    """Distance of neighbouring planes, mm: the usual one, or what the header says where there is one plane only."""
    steps = np.diff(levels)
    steps = steps[steps > PLANE_MM]
    if not len(steps):
        return stored or 1.0
    smallest = float(np.percentile(steps, 10))
    return float(steps[steps < 1.5 * smallest].mean())


def _reach(grid: NDArray[np.float64], values: NDArray[np.float64]) -> slice:
    """The grid points between the ends of some values."""
    return slice(int(np.searchsorted(grid, values.min())), int(np.searchsorted(grid, values.max(), "right")))


def _inside(
    points_N2: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Grid points inside a polygon, by the parity of its crossings with the rows: [y, x]."""
    crossings = np.zeros((len(y), len(x) + 1), np.int32)
    start, end = points_N2, np.roll(points_N2, -1, axis=0)
    for (x0, y0), (x1, y1) in zip(start, end):
        if y0 == y1:
            continue
        rows = np.flatnonzero((y >= min(y0, y1)) & (y < max(y0, y1)))
        at = x0 + (y[rows] - y0) / (y1 - y0) * (x1 - x0)
        np.add.at(crossings, (rows, np.searchsorted(x, at)), 1)
    inside: NDArray[np.bool_] = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    return inside
