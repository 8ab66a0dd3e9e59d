"""The grid that the slices of a DICOM series make, checked from their headers alone.

Third of four steps: `dicom_headers` groups files into series, `dicom_uniformity` checks what the images have in common,
this module orders the slices of one series along their normal and refuses a series whose slices make no regular grid,
`dicom_series` chooses among series and reads the pixels.

Errors name positions in mm and counts, never file names or header texts, which may name a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_headers import Series, Slice
from ctplatform.imaging.dicom_tilt import Shear
from ctplatform.imaging.dicom_uniformity import volume_slices

GAP_TOLERANCE = 0.05
"""Of the slice distance; scanners round positions to 0.1 mm or less."""

TILT_DEGREES = 0.5

COSINE_TOLERANCE, SPACING_TOLERANCE_MM = 0.01, 0.001
"""Of a slice from the median of all: some scanners and exports round each image by itself."""

SIDE_TOLERANCE_MM = 0.5
"""Of a slice aside of the line through all; positions are rounded to 0.1 mm."""


@dataclass(frozen=True)
class SeriesGeometry:
    """The slices of a series in order along their normal, and the grid that they make: mm, LPS.

    Attributes:
        slices: from the lowest to the highest position along the normal.
        origin: centre of the first voxel.
        spacing: x, y, z; z is the distance of neighbouring slices.
        direction: cosines, row by row, in the order of SimpleITK.
        notes: what was unusual, for the ledger.
        shear: of slices that a tilted gantry made, from which `dicom_tilt` makes the grid; else None.
    """

    slices: tuple[Slice, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, float, float]
    direction: tuple[float, ...]
    notes: tuple[str, ...]
    shear: Shear | None = None


def series_geometry(series: Series) -> SeriesGeometry:
    """Order the slices of a series and check that they make a regular grid.

    Raises:
        ScanError: of `dicom_uniformity`, and no-geometry, mixed-orientation, mixed-geometry, several-acquisitions,
            duplicate-slices, gantry-tilt, shifted-slices, missing-slice, uneven-spacing.
    """
    slices, notes = volume_slices(series)
    _check_uniform(slices)
    # Equal to those of each slice where all are equal.
    row, column = np.median([s.orientation for s in slices], axis=0).reshape(2, 3)
    y_mm, x_mm = np.median([s.pixel_spacing for s in slices], axis=0).tolist()
    normal = np.cross(row, column)
    positions_N3 = np.array([s.position for s in slices])
    order = np.argsort(positions_N3 @ normal, kind="stable")
    slices = [slices[i] for i in order]
    positions_N3 = positions_N3[order]
    heights_N = positions_N3 @ normal
    _check_duplicates(slices, heights_N)
    _check_passes(slices)
    degrees, step = _tilt(positions_N3, heights_N, normal)
    distance = _slice_distance(heights_N)
    spacing = (x_mm, y_mm, distance)
    shear = None
    if degrees > TILT_DEGREES:
        leaning = (*spacing[:2], distance / float(step @ normal))
        shear = Shear(degrees, np.stack([row, column, step]), leaning, positions_N3[0])
        shear.leaning()
        notes.append(
            f"the slices were sheared by a gantry tilt of {degrees:.1f} degrees; resampled to an upright grid"
        )
    elif series.tilt:
        notes.append(f"header names a gantry tilt of {series.tilt:g} degrees, but the slices are not sheared")
    return SeriesGeometry(
        slices=tuple(slices),
        origin=tuple(positions_N3[0]),
        spacing=spacing,
        direction=tuple(np.stack([row, column, normal], axis=1).ravel()),
        notes=tuple(notes),
        shear=shear,
    )


def _check_uniform(slices: Sequence[Slice]) -> None:
    without = sum(not (s.position and s.orientation and s.pixel_spacing) for s in slices)
    if without:
        raise ScanError(
            f"{without} of {len(slices)} slices have no position, orientation or pixel spacing",
            "Export the series again with these header fields, or give a NIfTI file",
            code="no-geometry",
        )
    cosines_N6 = np.array([s.orientation for s in slices])
    if _off(cosines_N6) > COSINE_TOLERANCE:
        count = max(2, len(np.unique(np.round(cosines_N6, 1) + 0.0, axis=0)))
        raise ScanError(
            f"the series mixes images of {count} orientations",
            "Give a folder with the axial images only",
            code="mixed-orientation",
        )
    row, column = np.median(cosines_N6, axis=0).reshape(2, 3)
    if max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column)) > 1e-2:
        raise ScanError(
            "the image orientation is not a pair of perpendicular unit vectors",
            "Export the series again",
            code="no-geometry",
        )
    spacings_N2 = np.array([s.pixel_spacing for s in slices])
    if len({s.shape for s in slices}) > 1 or _off(spacings_N2) > SPACING_TOLERANCE_MM:
        grids = {(s.shape, tuple(np.round(s.pixel_spacing, 2))) for s in slices}
        raise ScanError(
            f"the series mixes images of {max(2, len(grids))} sizes or pixel spacings",
            "Give a folder with the images of one reconstruction",
            code="mixed-geometry",
        )


def _off(values_NK: NDArray[np.float64]) -> float:
    """Largest difference of a slice's value from the median of its kind."""
    return float(np.abs(values_NK - np.median(values_NK, axis=0)).max())


def _check_duplicates(slices: Sequence[Slice], heights_N: NDArray[np.float64]) -> None:
    repeated = int((np.diff(heights_N) < 0.01).sum())
    if not repeated:
        return
    groups: dict[Any, list[float]] = {}
    for s, height in zip(slices, heights_N):
        groups.setdefault((s.acquisition, s.reconstruction), []).append(height)
    if len(groups) > 1 and all(len(h) < 2 or np.diff(h).min() >= 0.01 for h in groups.values()):
        raise _several(len(groups))
    raise ScanError(
        f"{repeated} slice position(s) occur more than once",
        "Remove the repeated images, or split the series by time point",
        code="duplicate-slices",
    )


def _check_passes(slices: Sequence[Slice]) -> None:
    """Refuse acquisitions or reconstructions whose slices, in order of position, alternate.

    Contiguous ones stay a series: they share no range of positions. Two passes with the same headers are recognised by
    InstanceNumber, which then rises along every second (third, fourth) slice, but not along all.
    """
    keys: list[list[Any]] = [
        [s.acquisition for s in slices],
        [s.reconstruction for s in slices],
    ]
    for values in keys:
        places: dict[Any, list[int]] = {}
        for k, value in enumerate(values):
            places.setdefault(value, []).append(k)
        ranges = sorted((found[0], found[-1]) for found in places.values() if len(found) > 2)
        overlaps = any(end > start for (_, end), (start, _) in pairwise(ranges))
        if overlaps:
            raise _several(len(places))
    numbers = [s.instance for s in slices if s.instance is not None]
    if len(numbers) < len(slices):
        return
    steps = np.diff(numbers)
    reversed_share = min(float((steps <= 0).mean()), float((steps >= 0).mean()))
    for passes in (2, 3, 4):
        parts = [np.diff(numbers[k::passes]) for k in range(passes)]
        monotonic = all((part > 0).all() or (part < 0).all() for part in parts)
        if reversed_share > 0.2 and monotonic and min(len(part) for part in parts) > 1:
            raise _several(passes)


def _several(count: int) -> ScanError:
    return ScanError(
        f"the series holds {count} acquisitions or reconstructions of the same region",
        "Split it (by AcquisitionNumber, or by the order of the images) and give one folder each",
        code="several-acquisitions",
    )


def _tilt(
    positions_N3: NDArray[np.float64], heights_N: NDArray[np.float64], normal: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Degrees between the slices' normal and the line through their positions, and the unit vector of this line."""
    aside_N3 = positions_N3 - heights_N[:, None] * normal
    heights_N = heights_N - heights_N.mean()
    aside_N3 = aside_N3 - aside_N3.mean(axis=0)
    slope_3 = heights_N @ aside_N3 / (heights_N @ heights_N)
    left_N = np.linalg.norm(aside_N3 - heights_N[:, None] * slope_3, axis=1)
    if left_N.max() > SIDE_TOLERANCE_MM:
        raise ScanError(
            f"the slices lie up to {np.ptp(aside_N3, axis=0).max():.1f} mm aside of each other",
            "Give the images of one reconstruction, all with the same field of view",
            code="shifted-slices",
        )
    step = normal + slope_3
    degrees = float(np.degrees(np.arctan(np.linalg.norm(slope_3))))
    return degrees, step / np.linalg.norm(step)


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
