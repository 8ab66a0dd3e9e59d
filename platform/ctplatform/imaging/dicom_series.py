"""A DICOM series as one stack of slices: its geometry checked, the choice among several, and its pixels in HU.

Problems name positions in mm and counts, never file names or header texts, which may name a patient. Pixels are
read with SimpleITK (GDCM).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import CTImageStorage

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_headers import Series, Slice, quiet_pydicom

MIN_SLICES = 10
AXIAL_COSINE = 0.8
GAP_TOLERANCE = 0.05  # of the slice distance; scanners round positions to 0.1 mm or less
TILT_DEGREES = 0.5

_CHUNK = 64  # slices decoded at a time: the decoder holds 4 bytes a voxel


@dataclass(frozen=True)
class Stack:
    """Slices in order along their normal, and the grid that they make: mm, LPS."""

    slices: tuple[Slice, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, float, float]
    direction: tuple[float, ...]
    notes: tuple[str, ...]


def choose(found: Sequence[Series]) -> tuple[Series | None, list[tuple[Series, str]]]:
    """Pick the axial CT series of a study, and say of each other why not.

    Out of question are series that `stack` refuses and those that are not axial. Of the rest the first by:
    original before derived; at least 80% of the longest coverage; thinner slices, in the classes up to 1.5, 3, 5 mm
    and more; a smooth kernel before a sharp one; more slices; the smaller UID.
    """
    usable: list[tuple[Series, Stack]] = []
    passed: list[tuple[Series, str]] = []
    for series in found:
        try:
            grid = stack(series)
        except ScanError as error:
            passed.append((series, error.problem))
            continue
        if abs(grid.direction[8]) < AXIAL_COSINE:
            passed.append((series, "not axial"))
        else:
            usable.append((series, grid))
    if not usable:
        return None, passed
    longest = max(len(grid.slices) * grid.spacing[2] for _, grid in usable)

    def rank(item: tuple[Series, Stack]) -> tuple:
        series, grid = item
        derived = any(word in ("DERIVED", "MPR", "MIP", "MINIP") for word in grid.slices[0].image_type)
        short = len(grid.slices) * grid.spacing[2] < 0.8 * longest
        thickness = max(grid.spacing[2], series.thickness or 0.0)
        thick = int(np.searchsorted([1.5, 3.0, 5.0], thickness))
        return derived, short, thick, is_sharp(series.kernel), -len(grid.slices), series.uid

    first, *others = sorted(usable, key=rank)
    reasons = ("derived", "shorter coverage", "thicker slices", "sharper kernel", "fewer slices", "later UID")
    for other in others:
        at = next(i for i, (a, b) in enumerate(zip(rank(first), rank(other))) if a != b)
        passed.append((other[0], f"{reasons[at]} than another series of the study"))
    return first[0], passed


def is_sharp(kernel: str) -> bool:
    """Whether a reconstruction kernel, as `Series.kernel` names it, sharpens so much that densities are distorted."""
    name = kernel.upper()
    number = re.search(r"\d{2}", name)
    if name.startswith("FC"):
        return number is not None and int(number.group()) >= 30
    if number:
        return int(number.group()) >= 50
    return name in {"LUNG", "BONE", "BONEPLUS", "EDGE", "ULTRA", "SHARP", "D", "E", "L", "YC", "YD"}


def stack(series: Series) -> Stack:
    """Check the geometry of a series from its headers.

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
    distance = _distance(heights_N)
    if series.tilt:
        notes.append(f"header names a gantry tilt of {series.tilt:g} degrees, but the slices are not sheared")
    return Stack(
        slices=tuple(slices),
        origin=tuple(positions_N3[0]),
        spacing=(slices[0].pixel_spacing[1], slices[0].pixel_spacing[0], distance),
        direction=tuple(np.stack([row, column, normal], axis=1).ravel()),
        notes=tuple(notes),
    )


def read_pixels(grid: Stack) -> np.ndarray:
    """Pixels of a stack in HU, [z, y, x]: int16, or int32 or float32 where int16 does not hold them.

    Raises:
        ScanError: truncated or unreadable pixels.
    """
    shape = (len(grid.slices), *grid.slices[0].shape)
    hu_ZYX = np.empty(shape, np.int16)
    # Neutral names in a fixed order: whatever the reader writes to its log cannot name a person.
    with tempfile.TemporaryDirectory(prefix="series-") as folder:
        for start in range(0, shape[0], _CHUNK):
            slices = grid.slices[start : start + _CHUNK]
            files = []
            for k, header in enumerate(slices, start):
                link = Path(folder) / f"{k:05d}.dcm"
                link.symlink_to(header.file.absolute())
                files.append(str(link))
            decoded, _owner = _decode(files, slices)
            part_ZYX = decoded.reshape(-1, *shape[1:])
            if part_ZYX.dtype.kind == "f":
                hu_ZYX = hu_ZYX.astype(np.float32, copy=False)
            elif hu_ZYX.dtype == np.int16 and (part_ZYX.min() < -32768 or part_ZYX.max() > 32767):
                hu_ZYX = hu_ZYX.astype(np.int32)
            hu_ZYX[start : start + len(slices)] = part_ZYX
    return hu_ZYX


def _decode(files: Sequence[str], slices: Sequence[Slice]) -> tuple[np.ndarray, sitk.Image | None]:
    """Pixels in HU; a view of the image beside, where there is one, which keeps them alive."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.SetNumberOfWorkUnits(1)  # a scan is one task, on one core
    if not all(s.whole_hu for s in slices):  # else the type of the first slice cuts the others' fractions off
        reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = reader.Execute()
        return sitk.GetArrayViewFromImage(image), image
    except RuntimeError:
        pass
    arrays = []
    for file, header in zip(files, slices):  # GDCM refuses some compressed series that pydicom decodes
        try:
            with quiet_pydicom():
                data = pydicom.dcmread(file)
                slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
                arrays.append((data.pixel_array * slope + intercept).astype(np.float32))
        except Exception:  # pydicom and its decoders raise many kinds
            raise _undecodable(header) from None
    return np.stack(arrays), None


def _undecodable(header: Slice) -> ScanError:
    at = f"the slice at {header.position[2]:.1f} mm"
    if not header.compressed:  # then it can only be too short
        return ScanError(f"{at} is cut short", "Copy or export the series again", code="truncated")
    return ScanError(
        f"the pixels of {at} cannot be decoded",
        "Export the series again, without compression, or convert it to NIfTI (e.g. with dcm2niix)",
        code="unreadable",
    )


def _without_localizers(slices: Sequence[Slice]) -> tuple[list[Slice], list[str]]:
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


def _check_duplicates(slices: Sequence[Slice], heights_N: np.ndarray) -> None:
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


def _check_tilt(positions_N3: np.ndarray, heights_N: np.ndarray, normal: np.ndarray) -> None:
    step = positions_N3[-1] - positions_N3[0]
    height = heights_N[-1] - heights_N[0]
    angle = float(np.degrees(np.arctan2(np.linalg.norm(step - height * normal), height)))
    if angle > TILT_DEGREES:
        raise ScanError(
            f"the slices are sheared by a gantry tilt of {angle:.1f} degrees",
            "Correct the tilt (e.g. with dcm2niix) and give the corrected NIfTI file",
            code="gantry-tilt",
        )


def _distance(heights_N: np.ndarray) -> float:
    """Distance of neighbouring slices, mm."""
    steps = np.diff(heights_N)
    usual = float(np.median(steps))
    off = np.abs(steps - usual) > max(GAP_TOLERANCE * usual, 0.05)
    if off.any():
        at = int(np.argmax(off))
        multiple = steps / usual
        if (np.abs(multiple - np.rint(multiple))[off] < 0.1).all() and steps[off].min() > 1.5 * usual:
            missing = int((np.rint(multiple[off]) - 1).sum())
            raise ScanError(
                f"{missing} slice(s) are missing, the first between {heights_N[at]:.1f} and "
                f"{heights_N[at + 1]:.1f} mm along the stack, where slices are {usual:.2f} mm apart",
                "Copy or export the complete series again",
                code="missing-slice",
            )
        raise ScanError(
            f"slice distances range from {steps.min():.2f} to {steps.max():.2f} mm (usual: {usual:.2f} mm)",
            "Give a series with even slice distances, or resample it first",
            code="uneven-spacing",
        )
    return float((heights_N[-1] - heights_N[0]) / len(steps))
