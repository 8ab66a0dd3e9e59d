"""A lung mask that the user gives with the scan, in place of a segmenter's; checked before it is used."""

from __future__ import annotations

import re

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_labels import StoredLabels
from ctplatform.imaging.label_map import image_of, read_labels
from ctplatform.lungs.coarse_grid import CoarseGrid, shrink
from ctplatform.lungs.left_right import split_left_right
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
from ctplatform.lungs.measures import mask_measures

MAX_LABELS = 6
"""Two lungs, or five lobes and the airways; more is a segmentation of the whole body."""

MIN_INSIDE = 0.98
"""Share of the mask that must lie inside the scan."""

AERATED_HU, MIN_AERATED = -400, 0.5
"""Share of the mask that must be aerated; lungs with much consolidation have more."""

APART_MM = 40.0
"""Distance of the centres of right and left lung, at least."""


def read_lung_mask(path: str, image: sitk.Image, *, spacing_mm: float) -> LungMask:
    """Read a lung mask for a scan.

    Values 50 and 100, and structures with names such as "Lung_R" or "left lung", say which lung they are; others are
    told apart by where they lie, and one label for both lungs is divided.

    Args:
        path: NIfTI, NRRD, MetaImage, DICOM SEG or RTSTRUCT, on any grid in the scan's physical space.
        image: the scan, int16 HU, axes in LPS order.
        spacing_mm: of the resulting mask, about.

    Raises:
        ScanError: lung-mask, it does not fit the scan; missing-label-map, label-map: it cannot be read.
    """
    stored = read_labels(path)
    labels = _sides(stored)
    coarse = shrink(image, spacing_mm)
    scan = CoarseGrid(sitk.GetArrayFromImage(coarse), coarse.GetSpacing())
    _check_grid(labels, image)
    parts = {}
    for value in np.unique(sitk.GetArrayViewFromImage(labels)):
        if value:
            share = sitk.Resample(
                sitk.Cast(labels == int(value), sitk.sitkFloat32),
                coarse,
                sitk.Transform(),
                sitk.sitkLinear,
                0.0,
                sitk.sitkFloat32,
            )
            parts[int(value)] = sitk.GetArrayFromImage(share) >= 0.5
    parts = {value: mask for value, mask in parts.items() if mask.any()}
    if not parts:
        raise _unusable("holds no lung on the scan's grid")
    lung = np.logical_or.reduce(list(parts.values()))
    aerated = float((scan.hu_ZYX[lung] < AERATED_HU).mean())
    if aerated < MIN_AERATED:
        raise _unusable(f"lies where only {aerated:.0%} of the voxels are aerated")
    labels_ZYX, notes = _right_and_left(scan, parts)
    result = sitk.GetImageFromArray(labels_ZYX)
    result.CopyInformation(coarse)
    return LungMask(result, mask_measures(scan, labels_ZYX), ("the lung mask is a given one", *notes))


def _sides(stored: StoredLabels) -> sitk.Image:
    """`RIGHT` and `LEFT` where names or values say so, else labels as they are; structures that are no lungs are 0."""
    values_ZYX = stored.volume.values_ZYX
    found = np.unique(values_ZYX)
    if values_ZYX.dtype.kind == "f" and not (found == np.rint(found)).all():
        raise _unusable("holds values that are no whole numbers")
    present = [int(value) for value in found if value != 0]
    side_of = {value: side for value, name in stored.names.items() if (side := _side(name))}
    if side_of:
        table = {value: side_of.get(value, 0) for value in present}
    elif {"lung", "lungs"} & set(stored.names.values()):
        table = {v: v if stored.names.get(v) in ("lung", "lungs") else 0 for v in present}
    else:
        table = {value: value for value in present}
    if not any(table.values()) or min(table) < 0:
        raise _unusable(
            "holds no label, or no structure named as a lung" if not table else "holds other values"
        )
    if len(set(table.values()) - {0}) > MAX_LABELS or max(table.values()) > 255:
        raise _unusable(f"holds {len(present)} labels, up to {max(present)}, which are not those of lungs")
    number = np.array([table.get(int(value), 0) for value in found], np.uint8)
    return image_of(number[np.searchsorted(found, values_ZYX)], stored.volume)


def _side(name: str) -> int:
    """`RIGHT` or `LEFT` of a structure whose name says that it is a lung or a lobe of one; else 0."""
    words = set(re.split(r"[^a-z]+", name))
    if not any(word.startswith(("lung", "lobe", "pulmo")) for word in words):
        return 0
    right, left = bool(words & {"right", "r", "rt"}), bool(words & {"left", "l", "lt"})
    return 0 if right == left else RIGHT if right else LEFT


def _check_grid(labels: sitk.Image, image: sitk.Image) -> None:
    """Refuse a mask that lies beside the scan."""
    index_N3 = np.argwhere(sitk.GetArrayViewFromImage(labels) > 0)[
        :: max(1, labels.GetNumberOfPixels() // 10**6)
    ]
    index_N3 = index_N3[:, ::-1]
    direction_33 = np.array(labels.GetDirection()).reshape(3, 3)
    points_N3 = (index_N3 * labels.GetSpacing()) @ direction_33.T + labels.GetOrigin()
    at_N3 = (
        (points_N3 - image.GetOrigin()) @ np.array(image.GetDirection()).reshape(3, 3) / image.GetSpacing()
    )
    inside = ((at_N3 >= -0.5) & (at_N3 <= np.array(image.GetSize()) - 0.5)).all(axis=1)
    if inside.mean() < MIN_INSIDE:
        raise _unusable(f"lies inside the scan with {inside.mean():.0%} of its voxels only")


def _right_and_left(
    scan: CoarseGrid, parts: dict[int, NDArray[np.bool_]]
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Labels [z, y, x] of both lungs, and what was unusual."""
    middle_mm = {value: float(np.nonzero(mask)[2].mean()) * scan.spacing[0] for value, mask in parts.items()}
    if set(parts) <= {RIGHT, LEFT}:
        labels_ZYX = np.zeros(scan.hu_ZYX.shape, np.uint8)
        for value, mask in parts.items():
            labels_ZYX[mask] = value
        if len(parts) == 2 and middle_mm[LEFT] - middle_mm[RIGHT] < APART_MM:
            raise _unusable(
                f"has the right lung {middle_mm[LEFT] - middle_mm[RIGHT]:.0f} mm to the right of the left one"
            )
        return labels_ZYX, () if len(parts) == 2 else ("only one lung was found",)
    if len(parts) == 1:
        labels_ZYX, separation = split_left_right(scan, next(iter(parts.values())))
        return labels_ZYX, ("only one lung was found",) if separation == "one" else ()
    border = (min(middle_mm.values()) + max(middle_mm.values())) / 2
    if max(middle_mm.values()) - min(middle_mm.values()) < APART_MM:
        raise _unusable("has labels that do not lie on two sides")
    labels_ZYX = np.zeros(scan.hu_ZYX.shape, np.uint8)
    for value, mask in parts.items():
        labels_ZYX[mask] = RIGHT if middle_mm[value] < border else LEFT
    return labels_ZYX, ()


def _unusable(why: str) -> ScanError:
    return ScanError(
        f"the given lung mask {why}",
        "Give the mask of this scan's lungs in its physical space (right 50, left 100), or leave lung_mask empty",
        code="lung-mask",
    )
