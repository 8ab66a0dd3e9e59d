"""The grid that the slices of a DICOM series make, checked from their headers alone.

Second of three steps: `dicom_headers` groups files into series, this module orders the slices of one series along
their normal and refuses a series whose slices make no regular grid, `dicom_series` chooses among series and reads
the pixels.

Errors name positions in mm and counts, never file names or header texts, which may name a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_headers import Series, Slice
from ctplatform.imaging.volume_checks import MIN_SLICES

GAP_TOLERANCE = 0.05
"""Of the slice distance; scanners round positions to 0.1 mm or less."""

TILT_DEGREES = 0.5


@dataclass(frozen=True)
class SeriesGeometry:
    """The slices of a series in order along their normal, and the grid that they make: mm, LPS.

    Attributes:
        slices: from the lowest to the highest position along the normal.
        origin: centre of the first voxel.
        spacing: x, y, z; z is the distance of neighbouring slices.
        direction: cosines, row by row, in the order of SimpleITK.
        notes: what was unusual, for the ledger.
    """

    slices: tuple[Slice, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, float, float]
    direction: tuple[float, ...]
    notes: tuple[str, ...]


def series_geometry(series: Series) -> SeriesGeometry:
    """Order the slices of a series and check that they make a regular grid.

    Raises:
        ScanError: wrong-modality, not-ct-image, multi-frame, no-geometry, mixed-orientation, mixed-geometry,
            too-few-slices, several-acquisitions, duplicate-slices, gantry-tilt, missing-slice, uneven-spacing.
    """
    if series.modality != "CT":
        raise ScanError(
            f"the modality is {series.modality}, not CT",
            "Give a CT series in place of it",
            code="wrong-modality",
        )
    if any(s.frames > 1 for s in series.slices):
        raise ScanError(
            "the series is an enhanced multi-frame image",
            "Convert it to NIfTI (e.g. with dcm2niix) and give that file",
            code="multi-frame",
        )
    if series.sop_class != CTImageStorage:
        raise ScanError(
            "the images are not of the class CT Image Storage (screenshots or reports, perhaps)",
            "Give the original axial CT series",
            code="not-ct-image",
        )
    slices, notes = _without_localizers(series.slices)
    _check_uniform(slices)
    row, column = np.array(slices[0].orientation).reshape(2, 3)
    normal = np.cross(row, column)
    positions_N3 = np.array([s.position for s in slices])
    order = np.argsort(positions_N3 @ normal, kind="stable")
    slices = [slices[i] for i in order]
    positions_N3 = positions_N3[order]
    heights_N = positions_N3 @ normal
    _check_duplicates(slices, heights_N)
    _check_tilt(positions_N3, heights_N, normal)
    distance = _slice_distance(heights_N)
    if series.tilt:
        notes.append(f"header names a gantry tilt of {series.tilt:g} degrees, but the slices are not sheared")
    return SeriesGeometry(
        slices=tuple(slices),
        origin=tuple(positions_N3[0]),
        spacing=(slices[0].pixel_spacing[1], slices[0].pixel_spacing[0], distance),
        direction=tuple(np.stack([row, column, normal], axis=1).ravel()),
        notes=tuple(notes),
    )


def _without_localizers(slices: Sequence[Slice]) -> tuple[list[Slice], list[str]]:
    """The slices without localizers and repeated images, and a note on each kind that was left out."""
    notes = []
    kept = [s for s in slices if not {"LOCALIZER", "SCOUT"} & set(s.image_type)]
    if len(kept) < len(slices):
        notes.append(f"{len(slices) - len(kept)} localizer image(s) left out")
    unique = list({s.sop_uid or str(s.file): s for s in kept}.values())
    if len(unique) < len(kept):
        notes.append(f"{len(kept) - len(unique)} file(s) that repeat an image left out")
    if len(unique) < MIN_SLICES:
        raise ScanError(
            f"the series has {len(unique)} slice(s), localizers not counted; at least {MIN_SLICES} are needed",
            "Give the complete axial series",
            code="too-few-slices",
        )
    return unique, notes


def _check_uniform(slices: Sequence[Slice]) -> None:
    without = sum(not (s.position and s.orientation and s.pixel_spacing) for s in slices)
    if without:
        raise ScanError(
            f"{without} of {len(slices)} slices have no position, orientation or pixel spacing",
            "Export the series again with these header fields, or give a NIfTI file",
            code="no-geometry",
        )
    orientations = {tuple(np.round(s.orientation, 2) + 0.0) for s in slices}
    if len(orientations) > 1:
        raise ScanError(
            f"the series mixes images of {len(orientations)} orientations",
            "Give a folder with the axial images only",
            code="mixed-orientation",
        )
    row, column = np.array(slices[0].orientation).reshape(2, 3)
    if max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column)) > 1e-2:
        raise ScanError(
            "the image orientation is not a pair of perpendicular unit vectors",
            "Export the series again",
            code="no-geometry",
        )
    grids = {(s.shape, tuple(np.round(s.pixel_spacing, 3))) for s in slices}
    if len(grids) > 1:
        raise ScanError(
            f"the series mixes images of {len(grids)} sizes or pixel spacings",
            "Give a folder with the images of one reconstruction",
            code="mixed-geometry",
        )


def _check_duplicates(slices: Sequence[Slice], heights_N: NDArray[np.float64]) -> None:
    repeated = int((np.diff(heights_N) < 0.01).sum())
    if not repeated:
        return
    groups: dict[str, list[float]] = {}
    for s, height in zip(slices, heights_N):
        groups.setdefault(s.acquisition, []).append(height)
    if len(groups) > 1 and all(len(h) < 2 or np.diff(h).min() >= 0.01 for h in groups.values()):
        raise ScanError(
            f"the series holds {len(groups)} acquisitions of the same region",
            "Split it by AcquisitionNumber and give one folder each",
            code="several-acquisitions",
        )
    raise ScanError(
        f"{repeated} slice position(s) occur more than once",
        "Remove the repeated images, or split the series by time point",
        code="duplicate-slices",
    )


def _check_tilt(
    positions_N3: NDArray[np.float64], heights_N: NDArray[np.float64], normal: NDArray[np.float64]
) -> None:
    step = positions_N3[-1] - positions_N3[0]
    height = heights_N[-1] - heights_N[0]
    angle = float(np.degrees(np.arctan2(np.linalg.norm(step - height * normal), height)))
    if angle > TILT_DEGREES:
        raise ScanError(
            f"the slices are sheared by a gantry tilt of {angle:.1f} degrees",
            "Correct the tilt (e.g. with dcm2niix) and give the corrected NIfTI file",
            code="gantry-tilt",
        )


def _slice_distance(heights_N: NDArray[np.float64]) -> float:
    """Distance of neighbouring slices, mm."""
    steps = np.diff(heights_N)
    typical = float(np.median(steps))
    off = np.abs(steps - typical) > max(GAP_TOLERANCE * typical, 0.05)
    if off.any():
        at = int(np.argmax(off))
        multiple = steps / typical
        if (np.abs(multiple - np.rint(multiple))[off] < 0.1).all() and steps[off].min() > 1.5 * typical:
            missing = int((np.rint(multiple[off]) - 1).sum())
            raise ScanError(
                f"{missing} slice(s) are missing, the first between {heights_N[at]:.1f} and "
                f"{heights_N[at + 1]:.1f} mm along the series, where slices are {typical:.2f} mm apart",
                "Copy or export the complete series again",
                code="missing-slice",
            )
        raise ScanError(
            f"slice distances range from {steps.min():.2f} to {steps.max():.2f} mm (usual: {typical:.2f} mm)",
            "Give a series with even slice distances, or resample it first",
            code="uneven-spacing",
        )
    return float((heights_N[-1] - heights_N[0]) / len(steps))
