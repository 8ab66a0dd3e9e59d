"""Where in a scan the first reason of its verdict is to be seen, for the planes of its overlay."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask, middle_voxel
from ctplatform.lungs.measures import BASE_CM2
from ctplatform.preparation.quality import inner_voxels
from ctplatform.registration.affine_registration import Registration
from ctplatform.registration.template import Template

Point = tuple[float, float, float]


def problem_place(
    cause: str, image: sitk.Image, mask: LungMask, registration: Registration, template: Template
) -> Point | None:
    """A point, LPS mm; None where the reason is about the whole of both lungs.

    Args:
        cause: measure of the first reason.
        image: the scan.
    """
    if cause in mask.places:
        return mask.places[cause]
    if cause.startswith("opaque_"):
        return _opaque(image, mask.labels, registration, template, RIGHT if cause.endswith("right") else LEFT)
    labels_ZYX = sitk.GetArrayViewFromImage(mask.labels)
    region = _region(cause, labels_ZYX, mask.labels.GetSpacing(), mask.measures)
    return middle_voxel(mask.labels, region) if region is not None and region.any() else None


def _region(
    cause: str, labels_ZYX: NDArray[np.uint8], spacing: tuple[float, ...], measures: dict[str, float]
) -> NDArray[np.bool_] | None:
    """The part of the lungs that a measure of the mask is about."""
    region = np.zeros(labels_ZYX.shape, bool)
    if cause in ("cut_top_cm2", "cut_bottom_cm2"):
        end = -1 if cause == "cut_top_cm2" else 0
        region[end] = labels_ZYX[end] > 0
    elif cause == "cut_side_cm2":
        sides = [np.s_[:, :, 0], np.s_[:, :, -1], np.s_[:, 0], np.s_[:, -1]]
        side = max(sides, key=lambda at: int((labels_ZYX[at] > 0).sum()))
        region[side] = labels_ZYX[side] > 0
    elif cause == "base_step_mm":
        lung = labels_ZYX == (RIGHT if measures.get("base_step_mm", 0.0) > 0 else LEFT)
        area_Z = lung.sum(axis=(1, 2)) * spacing[0] * spacing[1] / 100
        lowest = int(np.argmax(area_Z > BASE_CM2))
        region[lowest] = lung[lowest]
    elif cause in ("dice_right", "dice_left"):
        region = labels_ZYX == (RIGHT if cause == "dice_right" else LEFT)
    elif cause == "side_ratio":
        smaller = RIGHT if measures.get("side_ratio", 1.0) < 1 else LEFT
        region = labels_ZYX == smaller
    else:
        return None
    return region


def _opaque(
    image: sitk.Image, labels: sitk.Image, registration: Registration, template: Template, label: int
) -> Point | None:
    hu = sitk.Resample(image, labels, sitk.Transform(), sitk.sitkLinear, float(PADDING_HU), sitk.sitkInt16)
    index_N3, is_opaque_N = inner_voxels(hu, labels, registration, template, label)
    x, y, z = index_N3[is_opaque_N].T
    where_ZYX = np.zeros(labels.GetSize()[::-1], bool)
    where_ZYX[z, y, x] = True
    return middle_voxel(labels, where_ZYX) if where_ZYX.any() else None
