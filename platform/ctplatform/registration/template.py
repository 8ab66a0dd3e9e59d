"""The registration target: an atlas lung mask with its distance maps, sampled at the points that a fit compares."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.config.preparation import RegistrationConfig
from ctplatform.errors import ScanError, StageError
from ctplatform.imaging.files import same_locale
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.registration.affine import Array, to_transform
from ctplatform.registration.distance_maps import DistanceMaps, distance_maps, lung_moments

COARSE_CLIP_MM = 25.0
"""Clip of the distances in the coarse fit; points further from the atlas surface are not sampled."""

INNER_MM, INNER_POINTS = 20.0, 3000
"""Depth below the atlas's lung surface that exceeds the error of an affine between two persons' lungs; and about how
many points of that depth are kept."""

DEFAULTS = RegistrationConfig.model_validate({})


class Template:
    """What a registration needs of the atlas lung mask, computed once for thousands of scans. Picklable.

    The mask itself is not kept: at the published atlas's 1 mm it has 48 MB.

    Attributes:
        moments: centroid and covariance of its lungs.
        points_N3: sampled points near its surface, LPS mm, in random order.
        band_N: distance of these points from the surface, mm.
        values_NC: their signed distances to the right and left lung, mm; exact below `COARSE_CLIP_MM`.
        inner: points of each lung well below its surface, by label, LPS mm [N,3].
    """

    def __init__(self, labels: sitk.Image, config: RegistrationConfig) -> None:
        maps = distance_maps(labels, spacing=min(2.0, config.spacing_mm), margin=40.0, reach=COARSE_CLIP_MM)
        self.moments = lung_moments(maps)
        surface_ZYX = np.minimum(*np.moveaxis(np.abs(maps.sdf_ZYXC), -1, 0))
        index_N3 = np.argwhere(surface_ZYX < COARSE_CLIP_MM)
        distance_N = surface_ZYX[tuple(index_N3.T)]
        # Denser near the surface, where the fine fit works. The seed is part of the method and not of the recipe.
        weight_N = np.where(distance_N < 4, 4.0, np.where(distance_N < 10, 2.0, 1.0))
        chosen = np.random.default_rng(0).choice(
            len(index_N3), min(config.points, len(index_N3)), replace=False, p=weight_N / weight_N.sum()
        )
        index_N3, self.band_N = index_N3[chosen], distance_N[chosen]
        self.points_N3 = index_N3[:, ::-1] * maps.spacing @ maps.direction_33.T + maps.origin_3
        self.values_NC = maps.sdf_ZYXC[tuple(index_N3.T)]
        self.inner = {label: _inner(maps, channel) for channel, label in enumerate((RIGHT, LEFT))}
        grid = _grid_labels(labels, spacing=3.0)
        self._grid_labels_ZYX = sitk.GetArrayFromImage(grid)
        self._grid = (grid.GetSize(), grid.GetSpacing(), grid.GetOrigin(), grid.GetDirection())

    @classmethod
    def from_image(cls, labels: sitk.Image, *, config: RegistrationConfig) -> Template:
        """From a label image (50 right, 100 left).

        Raises:
            ScanError: a lung is missing in it.
        """
        return cls(labels, config)

    @classmethod
    def read(cls, path: str | Path, *, config: RegistrationConfig | None = None) -> Template:
        """From a file of any format that SimpleITK reads.

        Raises:
            StageError: the file cannot be read or holds no pair of lungs.
        """
        try:
            with same_locale():
                labels = sitk.ReadImage(str(path), sitk.sitkUInt8)
            return cls(labels, config or DEFAULTS)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise StageError(
                f"the atlas lung mask {path} cannot be read ({reason})",
                "Check the path and the file",
                code="atlas",
            ) from None
        except ScanError as error:
            raise StageError(
                f"the atlas lung mask {path} is not usable: {error.problem}",
                f"Give a label image with {RIGHT} for the right and {LEFT} for the left lung",
                code="atlas",
            ) from None

    def dice(self, labels: sitk.Image, affine_44: Array) -> tuple[float, float, float]:
        """Dice of both lungs, of the right and of the left one, on the atlas grid."""
        size, spacing, origin, direction = self._grid
        moved = sitk.Resample(
            labels,
            size,
            to_transform(affine_44),
            sitk.sitkNearestNeighbor,
            origin,
            spacing,
            direction,
            0.0,
            sitk.sitkUInt8,
        )
        scan_ZYX, atlas_ZYX = sitk.GetArrayViewFromImage(moved), self._grid_labels_ZYX
        # The part of the scan's lungs that falls off the atlas grid counts as a miss.
        volume = abs(np.linalg.det(affine_44[:3, :3])) * math.prod(spacing)
        totals = _volumes(labels) / volume
        both = [int(((scan_ZYX == label) & (atlas_ZYX == label)).sum()) for label in (RIGHT, LEFT)]
        atlas = [int((atlas_ZYX == label).sum()) for label in (RIGHT, LEFT)]
        either = int(((scan_ZYX > 0) & (atlas_ZYX > 0)).sum())
        return (
            float(2 * either / (sum(atlas) + totals.sum())),
            float(2 * both[0] / (atlas[0] + totals[0])),
            float(2 * both[1] / (atlas[1] + totals[1])),
        )


def _inner(maps: DistanceMaps, channel: int) -> Array:
    index_N3 = np.argwhere(maps.sdf_ZYXC[..., channel] < -INNER_MM)
    index_N3 = index_N3[:: max(1, len(index_N3) // INNER_POINTS), ::-1]
    return index_N3 * maps.spacing @ maps.direction_33.T + maps.origin_3


def _volumes(labels: sitk.Image) -> Array:
    """Volumes of the right and the left lung, mm3."""
    counts = np.bincount(sitk.GetArrayViewFromImage(labels).ravel(), minlength=LEFT + 1)
    volumes_2: Array = counts[[RIGHT, LEFT]] * math.prod(labels.GetSpacing())
    return volumes_2


def _grid_labels(labels: sitk.Image, *, spacing: float) -> sitk.Image:
    """The label image on a coarser grid with the same extent."""
    size = [math.ceil(n * s / spacing) for n, s in zip(labels.GetSize(), labels.GetSpacing())]
    nearest = sitk.sitkNearestNeighbor
    return sitk.Resample(
        labels,
        size,
        sitk.Transform(),
        nearest,
        labels.GetOrigin(),
        [spacing] * 3,
        labels.GetDirection(),
        0.0,
        sitk.sitkUInt8,
    )
