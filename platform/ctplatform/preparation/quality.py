"""Measures of one prepared scan, and the verdict on it with its reasons as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.config.preparation import QualityConfig
from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
from ctplatform.lungs.measures import density
from ctplatform.preparation.body_axes import (
    FLAG_BONE,
    FLAG_SHAPE,
    REJECT_BONE,
    REJECT_SHAPE,
    measure_body_axes,
)
from ctplatform.preparation.laterality import measure_laterality
from ctplatform.preparation.sampling import Patches
from ctplatform.registration.affine import transform_points
from ctplatform.registration.affine_registration import Registration
from ctplatform.registration.template import Template

if TYPE_CHECKING:
    from ctplatform.imaging.volume import Volume

State = Literal["accepted", "flagged", "rejected"]

DARK_HU = -700
"""Voxels outside the lungs below this are room air, and some airway and bowel gas."""

OPAQUE_HU = -300
"""Denser tissue than this is not aerated lung."""

MIN_INNER = 200
"""Fewest points inside the scan of which a share is computed."""

REJECT_TOP_CM2 = 60.0
"""Lung on the last slice above which the apices are missing: about 25 mm of them, and all of their patches."""

FLAG_FREE_AIR_ML = 30.0
"""Of air as dark as room air that the segmenter found at the lungs; it finds none below."""

REJECT_DARK_SHARE = 0.55
"""Of each lung as dark as room air; the segmenter measures it from 0.4."""

MIN_AIR = 0.005
"""Smallest share of room air among the voxels for a median; a patient may fill the field of view."""


@dataclass(frozen=True)
class Verdict:
    """The state of a scan, and why; without reasons if it is accepted.

    Attributes:
        cause: measure of the first reason.
    """

    state: State
    reasons: tuple[str, ...] = ()
    cause: str = ""


def measure(
    volume: Volume,
    mask: LungMask,
    registration: Registration | None,
    patches: Patches | None,
    template: Template | None = None,
) -> dict[str, float]:
    """All quality measures of a scan; those of stages that did not run, or need the template, are missing."""
    measures = {**mask.measures, **density(volume.image, mask.labels)}
    # Linear interpolation keeps the noise of single voxels, to which medians and shares are robust.
    hu = sitk.Resample(
        volume.image, mask.labels, sitk.Transform(), sitk.sitkLinear, float(PADDING_HU), sitk.sitkInt16
    )
    hu_ZYX = sitk.GetArrayViewFromImage(hu)
    found = measure_laterality(hu_ZYX, mask.labels)
    measures |= {"heart_left_mm": found.heart_mm, "liver_right": found.soft, "mirrored": found.mirrored}
    axes = measure_body_axes(hu_ZYX, mask.labels)
    measures |= {"bone_behind": axes.bone_behind, "apex_above": axes.apex_above}
    if axes.swapped > 0:
        measures["swapped_axes"] = axes.swapped
    air = hu_ZYX[(sitk.GetArrayViewFromImage(mask.labels) == 0) & (hu_ZYX < DARK_HU) & (hu_ZYX > PADDING_HU)]
    measures["air_hu"] = float(np.median(air)) if air.size > MIN_AIR * hu_ZYX.size else math.nan
    if volume.air_hu < PADDING_HU:  # the volume itself is clamped there
        measures["air_hu"] = volume.air_hu
    if registration is not None:
        linear_33 = registration.affine_44[:3, :3]
        stretch = np.linalg.svd(linear_33, compute_uv=False)
        measures |= {
            "dice": registration.dice,
            "dice_right": registration.dice_right,
            "dice_left": registration.dice_left,
            "determinant": float(np.linalg.det(linear_33)),
            "sv_min": float(stretch.min()),
            "sv_max": float(stretch.max()),
        }
        if template is not None:
            measures |= opaque(hu, mask.labels, registration, template)
    if patches is not None:
        measures["inside"] = float(patches.inside_N.mean())
    return measures


def opaque(
    hu: sitk.Image, labels: sitk.Image, registration: Registration, template: Template
) -> dict[str, float]:
    """Share of each lung's interior, mapped from the atlas, that is as dense as tissue and not in the mask.

    Consolidation, effusion and large tumours are as dense as the chest wall, so a mask by density leaves them out; the
    affine, determined by the rest of both lungs, still maps the atlas's lung there.
    """
    shares = {}
    for label, name in ((RIGHT, "opaque_right"), (LEFT, "opaque_left")):
        _, is_opaque_N = inner_voxels(hu, labels, registration, template, label)
        if len(is_opaque_N) >= MIN_INNER:
            shares[name] = float(is_opaque_N.mean())
    return shares


def inner_voxels(
    hu: sitk.Image, labels: sitk.Image, registration: Registration, template: Template, label: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Voxels [n, x y z] of a lung's interior, mapped from the atlas into the scan, and which of them are opaque."""
    hu_ZYX, labels_ZYX = sitk.GetArrayViewFromImage(hu), sitk.GetArrayViewFromImage(labels)
    direction_33 = np.array(hu.GetDirection()).reshape(3, 3)
    points_N3 = transform_points(registration.affine_44, template.inner[label])
    index_N3 = np.rint((points_N3 - hu.GetOrigin()) @ direction_33 / hu.GetSpacing()).astype(int)
    index_N3 = index_N3[((index_N3 >= 0) & (index_N3 < hu.GetSize())).all(axis=1)]
    x, y, z = index_N3.T
    return index_N3, (hu_ZYX[z, y, x] > OPAQUE_HU) & (labels_ZYX[z, y, x] == 0)


def assess(measures: Mapping[str, float], config: QualityConfig, notes: Sequence[str] = ()) -> Verdict:
    """Assess a scan by the thresholds of the recipe.

    Args:
        measures: as from `measure`; one that is missing is not assessed.
        config: the thresholds.
        notes: what earlier steps found unusual: further reasons of a scan that is not accepted, never the only ones.
    """
    rejected: list[tuple[str, str]] = []
    flagged: list[tuple[str, str]] = []

    def below(name: str, reject: float, flag: float, text: str) -> None:
        value = measures.get(name, math.nan)
        if value < reject:
            rejected.append((name, text.format(value)))
        elif value < flag:
            flagged.append((name, text.format(value)))

    def above(name: str, reject: float, flag: float, text: str) -> None:
        value = measures.get(name, math.nan)
        if value > reject:
            rejected.append((name, text.format(value)))
        elif value > flag:
            flagged.append((name, text.format(value)))

    reject_air, flag_air = config.reject_air_hu, config.flag_air_hu
    not_hu = "the values are not HU: air outside the lungs lies at {:.0f}, not near -1000"
    below("air_hu", reject_air[0], flag_air[0], not_hu)
    above("air_hu", reject_air[1], flag_air[1], not_hu)
    heart, liver = measures.get("heart_left_mm", math.nan), measures.get("liver_right", math.nan)
    domes = (
        "the domes of the diaphragm cannot be compared"
        if math.isnan(liver)
        else f"under the right dome there is {abs(liver):.0%} {'more' if liver > 0 else 'less'} soft tissue than under "
        "the left one"
    )
    above(
        "mirrored",
        config.reject_mirrored,
        config.flag_mirrored,
        "the scan seems to be mirrored left-right (probability {:.0%}): the tissue between the lungs lies "
        f"{abs(heart):.0f} mm to the {'left' if heart > 0 else 'right'} of the middle, and {domes}",
    )
    below(
        "bone_behind",
        REJECT_BONE,
        FLAG_BONE,
        "the scan seems to be reversed front to back (y axis): of the bone near the midline there is more in front of "
        "the lungs than behind ({:.2f}, where 1 is all behind and -1 all in front)",
    )
    below(
        "apex_above",
        REJECT_SHAPE,
        FLAG_SHAPE,
        "the scan seems to be upside down (z axis): the lungs are convex below and flat or concave above ({:.1f} mm a "
        "mm, where lungs of upright scans have 1 to 3)",
    )
    above(
        "swapped_axes",
        0.0,
        0.0,
        "the axes y and z of the scan seem to be swapped: the body goes through the planes at both ends of y (at least "
        "{:.0%} of them are tissue) and not through those of z",
    )
    cut = (config.reject_cut_cm2, config.flag_cut_cm2)
    above(
        "cut_top_cm2",
        min(REJECT_TOP_CM2, config.reject_cut_cm2),
        config.flag_cut_cm2,
        "the lungs are cut off at the top of the scan ({:.0f} cm2 of lung on the last slice)",
    )
    above(
        "cut_bottom_cm2",
        *cut,
        "the lungs are cut off at the bottom of the scan ({:.0f} cm2 of lung on the last slice)",
    )
    above(
        "cut_side_cm2",
        *cut,
        "the field of view cuts through the lungs at the side ({:.0f} cm2 of lung on the border)",
    )
    above(
        "free_air_ml",
        math.inf,
        FLAG_FREE_AIR_ML,
        "{:.0f} ml of air at the lungs are as dark as room air (a pneumothorax or a large bulla, perhaps) and are not "
        "in the lung mask",
    )
    above(
        "dark_share",
        REJECT_DARK_SHARE,
        0.0,
        "at least {:.0%} of each lung is as dark as room air: the values lie too low, and so do measures of density",
    )
    low, high = config.reject_volume_l, config.flag_volume_l
    below("volume_l", low[0], high[0], "the lungs are very small ({:.2f} l)")
    above("volume_l", low[1], high[1], "the lungs are very large ({:.2f} l)")
    small, large = config.flag_side_ratio
    below("side_ratio", 0.0, small, "the right lung is much smaller than the left one (ratio {:.2f})")
    above("side_ratio", math.inf, large, "the right lung is much larger than the left one (ratio {:.2f})")
    below("dice", config.reject_dice, config.flag_dice, "the lungs fit the atlas badly (Dice {:.2f})")
    below("dice_right", 0.0, config.flag_side_dice, "the right lung fits the atlas badly (Dice {:.2f})")
    below("dice_left", 0.0, config.flag_side_dice, "the left lung fits the atlas badly (Dice {:.2f})")
    below(
        "determinant",
        0.0,
        config.flag_determinant,
        "the lungs are far smaller than the atlas (volume ratio {:.2f})",
    )
    below(
        "sv_min", 0.0, config.flag_singular_values[0], "the fit to the atlas shrinks one direction to {:.2f}"
    )
    above(
        "sv_max",
        math.inf,
        config.flag_singular_values[1],
        "the fit to the atlas stretches one direction by {:.2f}",
    )
    below(
        "inside",
        config.reject_inside,
        config.flag_inside,
        "only {:.0%} of the atlas patches lies inside the scan",
    )
    step = measures.get("base_step_mm", math.nan)
    above(
        "base_step_mm",
        math.inf,
        config.flag_base_step_mm,
        "the right lung ends {:.0f} mm higher than the left one (its base lacks air, perhaps, or the diaphragm is "
        "high)",
    )
    if step < -config.flag_base_step_mm:
        text = (
            f"the left lung ends {-step:.0f} mm higher than the right one (its base lacks air, perhaps, or the "
            "diaphragm is high)"
        )
        flagged.append(("base_step_mm", text))
    for side in ("right", "left"):
        above(
            f"opaque_{side}",
            math.inf,
            config.flag_opaque,
            f"{{:.0%}} of where the {side} lung should be is as dense as tissue (consolidation, effusion, a tumour or "
            "a large heart, perhaps) and is not in the lung mask",
        )
    found = rejected + flagged
    if not found:
        return Verdict("accepted")
    reasons = (*(text for _, text in found), *notes)
    return Verdict("rejected" if rejected else "flagged", reasons, found[0][0])
