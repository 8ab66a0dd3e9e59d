"""What the images of a DICOM series must be, and must have in common, before their pixels are one volume in HU.

Second of four steps, between `dicom_headers` and `dicom_geometry`. A slice that differs from the others in one of these
elements would decode to wrong values in silence. Sources: DICOM PS3.3 C.8.2 (CT Image), C.11.1 (Modality LUT), C.7.6.3
(Image Pixel), C.8.16.1.2 (frame types of multi-energy CT).

Errors name counts and positions, never file names or header texts, which may name a patient.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_frames import MULTI_FRAME_CLASSES
from ctplatform.imaging.dicom_headers import Series, Slice, plain_id
from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.imaging.volume_checks import MIN_SLICES, not_scalar, truncated_slice

WRONG_STEP_HU = 100.0
"""Neighbouring slices that are nearer to each other by so much with one of their rescales have one wrong."""

WRONG_SHARE = 0.35
"""Of the difference, which then is left at most: where the body begins, slices differ by half with either rescale."""

_PROJECTION_WORDS = {"MIP", "MINIP", "MAXIP", "MNIP", "PROJECTION", "VRT", "VOLREN", "SSD", "RENDERED"}
_PROJECTION_PHRASE = re.compile(r"\b(?:MIN(?:IMUM)?|MAX(?:IMUM)?)[ _-]?(?:IP|INTENSITY)\b")
_MATERIAL_WORDS = {
    "MAT_SPECIFIC", "MAT_REMOVED", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY",
}  # fmt: skip
_NO_HU_TYPES = {
    "Z_EFF": "effective atomic numbers", "ED": "electron densities", "EDW": "electron densities", "MGML": "mg/ml",
    "PCT": "percent", "OD": "optical densities", "material": "those of a material",
}  # fmt: skip


def is_projection(image: Slice) -> bool:
    """Whether ImageType names a projection (MIP, MinIP) or a rendering, whose values are no densities of a slice."""
    words = {word for value in image.image_type for word in re.split(r"[^A-Z]+", value)}
    return bool(words & _PROJECTION_WORDS) or any(_PROJECTION_PHRASE.search(v) for v in image.image_type)


def is_derived(image: Slice) -> bool:
    """Whether ImageType says that the image was computed from others."""
    return bool({"DERIVED", "MPR", "AVERAGE"} & set(image.image_type))


def volume_slices(series: Series) -> tuple[list[Slice], list[str]]:
    """The images of a series that make up its volume, checked, and a note on each kind that was left out or unusual.

    Raises:
        ScanError: wrong-modality, multi-frame, not-ct-image, bad-header, projection, too-few-slices, mixed-images,
            not-scalar, bad-rescale, mixed-rescale, not-hu, truncated.
    """
    _check_class(series.slices)
    slices, notes = _without_others(series)
    _check_same(slices)
    _check_rescale(slices)
    if slices[0].rescale_type == "HU_MOD":
        notes.append("the header calls the values modified HU")
    if any(is_derived(s) for s in slices):
        notes.append("the header calls the images derived")
    _check_length(slices)
    return slices, notes


def _check_class(slices: Sequence[Slice]) -> None:
    modalities = sorted({s.modality for s in slices})
    if "CT" not in modalities:
        raise ScanError(
            f"the modality is {modalities[0]}, not CT",
            "Give a CT series in place of it",
            code="wrong-modality",
        )
    if any(s.frames > 1 for s in slices):
        raise ScanError(
            "the series is a multi-frame image of another class than Enhanced CT",
            "Give the original CT series",
            code="multi-frame",
        )
    if all(s.sop_class not in (CTImageStorage, *MULTI_FRAME_CLASSES) for s in slices):
        raise ScanError(
            "the images are of no class of CT images (screenshots or reports, perhaps)",
            "Give the original axial CT series",
            code="not-ct-image",
        )
    invalid = [s for s in slices if s.invalid]
    if invalid:
        raise ScanError(
            f"{_of(invalid, slices)} have header elements that cannot be read: "
            f"{', '.join(sorted({k for s in invalid for k in s.invalid}))}",
            "Export the series again, or remove these files if they do not belong to it",
            code="bad-header",
        )


def _without_others(series: Series) -> tuple[list[Slice], list[str]]:
    """The slices without localizers, projections and repeated images, and a note on each kind that was left out."""
    notes = []
    kept = [s for s in series.slices if not {"LOCALIZER", "SCOUT"} & set(s.image_type)]
    if len(kept) < len(series.slices):
        notes.append(f"{len(series.slices) - len(kept)} localizer image(s) left out")
    originals = [s for s in kept if not is_projection(s)]
    described = bool(series.described) and all("ORIGINAL" not in s.image_type for s in kept)
    if kept and (not originals or described):
        raise ScanError(
            "the images are projections or renderings (MIP, MinIP), whose values are no densities of a slice",
            "Give the series that they were made from",
            code="projection",
        )
    if len(originals) < len(kept):
        notes.append(f"{len(kept) - len(originals)} projection(s) (MIP, MinIP) left out")
    # Some exports give every image the same SOPInstanceUID: only the same image at the same place is a repetition.
    unique = list({(s.sop_uid or str(s.file), s.position, s.acquisition): s for s in originals}.values())
    if len(unique) < len(originals):
        notes.append(f"{len(originals) - len(unique)} file(s) that repeat an image left out")
    shared = len(unique) - len({s.sop_uid or str(s.file) for s in unique})
    if shared:
        notes.append(
            f"{shared} image(s) at other places have the SOPInstanceUID of another one; all were used"
        )
    if len(unique) < MIN_SLICES:
        raise ScanError(
            f"the series has {len(unique)} slice(s), localizers not counted; at least {MIN_SLICES} are needed",
            "Give the complete axial series",
            code="too-few-slices",
        )
    return unique, notes


def _check_same(slices: Sequence[Slice]) -> None:
    elements: dict[str, set[Any]] = {
        "Modality": {s.modality for s in slices},
        "SOPClassUID": {s.sop_class for s in slices},
        # The issuer may be stamped on a part of the files; two issuers are two people, though.
        "PatientID": {plain_id(s.patient_id) for s in slices} - {""},
        "IssuerOfPatientID": {
            s.patient_id.split("\n")[0].strip().upper() for s in slices if "\n" in s.patient_id
        },
        "SamplesPerPixel": {s.samples for s in slices},
        "PhotometricInterpretation": {s.photometric for s in slices} - {""},
        "RescaleType": {s.rescale_type or "US" for s in slices} - {"US"},
    }
    mixed = [keyword for keyword, found in elements.items() if len(found) > 1]
    if mixed:
        raise ScanError(
            f"the images of the series differ in {', '.join(mixed)}",
            "Give a folder with the images of one acquisition and kind only",
            code="mixed-images",
        )
    first = slices[0]
    if first.samples != 1 or not elements["PhotometricInterpretation"] <= {"MONOCHROME1", "MONOCHROME2"}:
        raise not_scalar()
    unit = next(iter(elements["RescaleType"]), "")
    if unit in _NO_HU_TYPES:
        raise ScanError(
            f"the header says that the values are {_NO_HU_TYPES[unit]}",
            "Give the series in HU (an energy-specific or a conventional image)",
            code="not-hu",
        )
    if any(_MATERIAL_WORDS & set(s.image_type) for s in slices):
        raise ScanError(
            "the header says that the images are maps of a material, not of HU",
            "Give the series in HU (an energy-specific or a conventional image)",
            code="not-hu",
        )


def _check_rescale(slices: Sequence[Slice]) -> None:
    invalid = [s for s in slices if s.rescale == ()]
    if invalid:
        raise ScanError(
            f"{_of(invalid, slices)} have no valid pair of rescale slope and intercept (blank, incomplete, zero, or a "
            "lookup table)",
            "Export the series again with RescaleSlope and RescaleIntercept",
            code="bad-rescale",
        )
    without = [s for s in slices if s.rescale is None]
    if 0 < len(without) < len(slices):
        raise ScanError(
            f"{_of(without, slices)} have no rescale slope and intercept, the others have",
            "Export the series again with RescaleSlope and RescaleIntercept in every image",
            code="mixed-rescale",
        )


def check_rescale_steps(hu_ZYX: NDArray[Any], slices: Sequence[Slice]) -> None:
    """Where slope or intercept change from a slice to the next, their values must be what makes the two alike.

    Some exports change the header of some slices and not their stored values, or the other way round. Each header is
    valid by itself; with the rescale of its neighbour, such a slice fits it far better.

    Args:
        hu_ZYX: pixels as rescaled by their own headers.
        slices: their headers.

    Raises:
        ScanError: mixed-rescale.
    """
    wrong, least = 0, np.inf
    for z in range(1, len(slices)):
        slope_before, intercept_before = slices[z - 1].slope_intercept
        slope, intercept = slices[z].slope_intercept
        if (slope, intercept) == (slope_before, intercept_before):
            continue
        before, own = (hu_ZYX[k, ::4, ::4].astype(np.float64) for k in (z - 1, z))
        inside = (before > PADDING_HU) & (own > PADDING_HU)
        if not inside.any():
            continue
        before, own = before[inside], own[inside]
        swapped = (own - intercept) / slope * slope_before + intercept_before
        step, other = (float(np.abs(value - before).mean()) for value in (own, swapped))
        if step - other > WRONG_STEP_HU and other < WRONG_SHARE * step:
            wrong, least = wrong + 1, min(least, step)
    if wrong:
        raise ScanError(
            f"values change by {least:.0f} HU and more in the mean at {wrong} place(s) where rescale slope or "
            "intercept change, and would not with those of the slice before",
            "Export the series again: some slices have another header than their stored values need",
            code="mixed-rescale",
        )


def _check_length(slices: Sequence[Slice]) -> None:
    for s in slices:
        expected = (s.shape[0] * s.shape[1] * s.samples * s.bits_allocated + 7) // 8
        if 0 <= s.pixel_bytes < expected:
            raise truncated_slice(s.position)


def _of(some: Sequence[Slice], slices: Sequence[Slice]) -> str:
    return f"{len(some)} of {len(slices)} slices"
