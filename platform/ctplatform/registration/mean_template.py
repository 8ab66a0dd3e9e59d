"""The atlas lung mask of a cohort: the unbiased mean of its affinely aligned lung masks."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.config.preparation import RegistrationConfig
from ctplatform.errors import StageError
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.registration.affine import to_transform
from ctplatform.registration.affine_registration import maps_of, register
from ctplatform.registration.distance_maps import distance_maps
from ctplatform.registration.template import DEFAULTS, Template

logger = logging.getLogger(__name__)

WORK_MM = 2.5
"""Grid on which distance maps are averaged; finer than the masks themselves."""

MARGIN_MM = 20.0
CLIP_MM = 15.0


def make_mean_template(
    masks: Sequence[sitk.Image],
    *,
    iterations: int = 2,
    spacing_mm: float = 1.0,
    config: RegistrationConfig | None = None,
) -> sitk.Image:
    """Mean lung shape of a cohort as a label image (50 right, 100 left), LPS axes, centred on 0 mm.

    Every iteration registers the current template to all masks, removes the mean of these affines (so that
    pose and size of the template are the cohort's mean and do not depend on the first mask), and averages the aligned
    signed distance maps; their zero level is the next template. The same masks in the same order give the
    same template, bit for bit.

    Args:
        masks: two or more label images, any grid.
        spacing_mm: of the result.

    Raises:
        StageError: fewer than two masks.
        ScanError: a mask lacks a lung.
    """
    if len(masks) < 2:
        raise StageError(
            f"an atlas needs at least 2 accepted scans, there are {len(masks)}",
            "Add scans, or give an atlas with atlas.source",
            code="atlas",
        )
    config = config or DEFAULTS
    fields = [_distance_image(mask) for mask in masks]
    maps = [maps_of(mask, config) for mask in masks]
    labels = _centred(masks[_most_typical(masks)])
    mean_field = None
    for iteration in range(max(1, iterations)):
        current = Template.from_image(labels, config=config)
        affines_M44 = np.stack(
            [
                register(mask, current, config, maps=own).affine_44
                for mask, own in zip(masks, maps, strict=True)
            ]
        )
        # With the mean affine removed, the mean position of a template point over the cohort is the point itself.
        mean_44 = affines_M44.mean(axis=0)
        logger.info(
            "atlas iteration %d: removed a mean affine of determinant %.3f", iteration, _determinant(mean_44)
        )
        centre_3 = mean_44[:3, :3] @ _centroid(labels) + mean_44[:3, 3]
        shift_44 = np.eye(4)
        shift_44[:3, 3] = centre_3
        mean_field = _mean_field(fields, affines_M44 @ np.linalg.inv(mean_44) @ shift_44)
        labels = _labels(mean_field, spacing_mm=WORK_MM)
    assert mean_field is not None
    return _labels(mean_field, spacing_mm=spacing_mm)


def _most_typical(masks: Sequence[sitk.Image]) -> int:
    """Index of the mask with the median lung volume (the lower of two); only the first iteration depends on it."""
    volumes = [
        int((sitk.GetArrayViewFromImage(mask) > 0).sum()) * math.prod(mask.GetSpacing()) for mask in masks
    ]
    return int(np.argsort(volumes, kind="stable")[(len(volumes) - 1) // 2])


def _centroid(labels: sitk.Image) -> NDArray[np.float64]:
    index_3 = np.argwhere(sitk.GetArrayViewFromImage(labels) > 0)[:, ::-1].mean(axis=0)
    return np.array(labels.TransformContinuousIndexToPhysicalPoint(index_3.tolist()))


def _centred(labels: sitk.Image) -> sitk.Image:
    moved = sitk.Image(labels)
    moved.SetOrigin((np.array(labels.GetOrigin()) - _centroid(labels)).tolist())
    return moved


def _distance_image(mask: sitk.Image) -> sitk.Image:
    """Both clipped distance maps as one two-component image."""
    maps = distance_maps(mask, spacing=WORK_MM, margin=MARGIN_MM + CLIP_MM, reach=CLIP_MM)
    image = sitk.GetImageFromArray(np.clip(maps.sdf_ZYXC, -CLIP_MM, CLIP_MM), isVector=True)
    image.SetSpacing([maps.spacing] * 3)
    image.SetOrigin(maps.origin_3.tolist())
    image.SetDirection(maps.direction_33.ravel().tolist())
    return image


def _mean_field(fields: Sequence[sitk.Image], affines_M44: NDArray[np.float64]) -> sitk.Image:
    """Mean of the distance maps in template space, on a grid around 0 mm that holds all of them."""
    half_3 = np.zeros(3)
    for field, affine_44 in zip(fields, affines_M44):
        corners_83 = (_corners(field) - affine_44[:3, 3]) @ np.linalg.inv(affine_44[:3, :3]).T
        half_3 = np.maximum(half_3, np.abs(corners_83).max(axis=0))
    size_3 = 2 * np.ceil(half_3 / WORK_MM).astype(int)
    origin_3 = -(size_3 - 1) / 2 * WORK_MM
    total_ZYXC = np.zeros((*size_3[::-1].tolist(), 2), np.float32)
    for field, affine_44 in zip(fields, affines_M44):
        moved = sitk.Resample(
            field,
            size_3.tolist(),
            to_transform(affine_44),
            sitk.sitkLinear,
            origin_3.tolist(),
            [WORK_MM] * 3,
            np.eye(3).ravel().tolist(),
            CLIP_MM,
            sitk.sitkVectorFloat32,
        )
        total_ZYXC += sitk.GetArrayViewFromImage(moved)
    mean = sitk.GetImageFromArray(total_ZYXC / np.float32(len(fields)), isVector=True)
    mean.SetSpacing([WORK_MM] * 3)
    mean.SetOrigin(origin_3.tolist())
    return mean


def _labels(field: sitk.Image, *, spacing_mm: float) -> sitk.Image:
    """Zero level of the mean distance maps, on a grid of `spacing_mm` around the lungs with a margin."""
    inside_ZYX = sitk.GetArrayViewFromImage(field).min(axis=-1) < 0
    ends = [np.flatnonzero(inside_ZYX.any(axis=axes)) for axes in ((0, 1), (0, 2), (1, 2))]
    low_3 = np.array([end[0] for end in ends]) * WORK_MM + np.array(field.GetOrigin()) - MARGIN_MM
    high_3 = np.array([end[-1] for end in ends]) * WORK_MM + np.array(field.GetOrigin()) + MARGIN_MM
    size_3 = np.ceil((high_3 - low_3) / spacing_mm).astype(int) + 1
    fine = sitk.Resample(
        field,
        size_3.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        low_3.tolist(),
        [spacing_mm] * 3,
        np.eye(3).ravel().tolist(),
        CLIP_MM,
        sitk.sitkVectorFloat32,
    )
    fine_ZYXC = sitk.GetArrayViewFromImage(fine)
    right_ZYX, left_ZYX = fine_ZYXC[..., 0], fine_ZYXC[..., 1]
    labels_ZYX = np.zeros(right_ZYX.shape, np.uint8)
    labels_ZYX[(right_ZYX < 0) & (right_ZYX <= left_ZYX)] = RIGHT
    labels_ZYX[(left_ZYX < 0) & (left_ZYX < right_ZYX)] = LEFT
    labels = sitk.GetImageFromArray(labels_ZYX)
    labels.SetSpacing(fine.GetSpacing())
    labels.SetOrigin(fine.GetOrigin())
    return labels


def _corners(image: sitk.Image) -> NDArray[np.float64]:
    """The eight corner voxels, LPS mm [8,3]."""
    ends = itertools.product(*((0, n - 1) for n in image.GetSize()))
    return np.array([image.TransformIndexToPhysicalPoint(end) for end in ends])


def _determinant(affine_44: NDArray[np.float64]) -> float:
    return float(np.linalg.det(affine_44[:3, :3]))
