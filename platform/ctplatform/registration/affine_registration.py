"""Affine registration of a scan's lung mask to the atlas lung mask.

Both masks become clipped signed distance maps, one a lung, on a few-millimetre grid; Levenberg-Marquardt
fits the twelve numbers of the affine to them. Beyond the scan's ends the maps are replicated, so a cut face
is no surface, and atlas points that fall outside the scan are left out: the part of a lung that the scan does
not show has no influence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.config.preparation import RegistrationConfig
from ctplatform.errors import ScanError
from ctplatform.registration.distance_maps import DistanceMaps, distance_maps
from ctplatform.registration.levenberg_marquardt import DistanceFit, starting_affines
from ctplatform.registration.template import COARSE_CLIP_MM, Template

FINE_CLIP_MM = 5.0
FINE_BAND_MM = 5.0
COARSE_POINTS = 1500
COARSE_TOLERANCE_MM = 0.3
EARLY_STEPS = 5
"""Steps from every start, before the best one is continued."""


@dataclass(frozen=True)
class Registration:
    """Result of one registration.

    Attributes:
        affine_44: float64, atlas LPS mm -> scan LPS mm.
        dice: overlap of both lungs after registration, on the atlas grid.
        dice_right, dice_left: the same of one lung.
        iterations: Levenberg-Marquardt steps from the best start.
    """

    affine_44: NDArray[np.float64]
    dice: float
    dice_right: float
    dice_left: float
    iterations: int


def maps_of(labels: sitk.Image, config: RegistrationConfig) -> DistanceMaps:
    """The distance maps of a scan's lung mask that `register` works on.

    Raises:
        ScanError: a lung is missing.
    """
    return distance_maps(labels, spacing=config.spacing_mm, margin=30.0, reach=COARSE_CLIP_MM)


def register(
    labels: sitk.Image, template: Template, config: RegistrationConfig, *, maps: DistanceMaps | None = None
) -> Registration:
    """Fit the affine that maps the atlas onto a scan's lungs.

    Args:
        labels: lung mask of the scan (50 right, 100 left), any direction matrix.
        template: the atlas.
        config: settings.
        maps: `maps_of` the mask, for a caller that registers it several times.

    Raises:
        ScanError: a lung is missing, or no start leads to an overlap.
    """
    maps = maps or maps_of(labels, config)
    starts = starting_affines(template, maps)
    coarse = DistanceFit(template, maps, clip=COARSE_CLIP_MM, points=COARSE_POINTS)
    # Nearly always all starts end at the same place, so a few steps are enough to choose one.
    early = [coarse.minimise(start, iterations=EARLY_STEPS) for start in starts]
    first = min(early, key=lambda fit: fit.cost)
    best = coarse.minimise(first.affine_44, iterations=config.iterations, tolerance=COARSE_TOLERANCE_MM)
    fine = DistanceFit(template, maps, clip=FINE_CLIP_MM, band=FINE_BAND_MM)
    final = fine.minimise(best.affine_44, iterations=config.iterations)
    affine_44 = final.affine_44
    if not np.isfinite(final.cost) or np.linalg.det(affine_44[:3, :3]) <= 0:
        raise ScanError(
            "the lung mask could not be aligned with the atlas",
            "Look at the scan's lung mask; a scan without both lungs cannot be used",
            code="registration",
        )
    dice, right, left = template.dice(labels, affine_44)
    return Registration(affine_44, dice, right, left, best.iterations + final.iterations)
