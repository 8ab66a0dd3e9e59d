"""The classical lung segmenter: thresholds, connected components and morphology on a grid of a few millimetres.

Lung is what is dark, lies in the body, and is neither outside air nor airway nor gas of stomach and bowel. The
thresholds hold for means over a coarse voxel; the criterion that separates each of these on real scans is described
at its function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.lungs.airway import find_airway
from ctplatform.lungs.coarse_grid import TISSUE_HU, CoarseGrid, bounding_box, shrink
from ctplatform.lungs.left_right import split_left_right
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask, middle_voxel
from ctplatform.lungs.measures import mask_measures
from ctplatform.lungs.morphology import Ellipsoid, Mask, dilate, erode, fill_holes

LUNG_HU = -450
"""About half-way between lung and soft tissue: where the surface of the lung is on a blurred grid."""

OUTSIDE_AIR_HU = -950
"""Room air is darker; lung that the field of view cuts is brighter."""

UPPER_GAS_HU = -970
"""In the upper half of the lungs: gas in airways is darker, even emphysema mostly brighter."""

LOWER_GAS_HU, GAS_CONTRAST_HU = (-955, -930), 60
"""In the lower half, gas of the bowel, which is no brighter than this, is darker than most of the lung by so much."""

EVEN_HU = -930
"""Median below which a component of little spread is gas or foam."""

BIG_POCKET_ML = 25.0
"""Paraseptal emphysema, which borders on tissue as a stomach does, has smaller pockets."""

MIN_COMPONENT_ML = 25.0
SMALL_SHARE = 0.05
"""Of the largest component: smaller ones are lung only where no bowel lies, in the upper half of the lungs."""

FREE_AIR_HU, MIN_FREE_AIR_ML = -985, 30.0
"""Air in the pleura is as dark as room air. Of nine real scans, among them one of 19% emphysema, the lungs hold at most
1.2 ml in one piece that is as dark."""

FREE_AIR_GAPS_MM, LEAST_SOLID = 6.0, 0.8
"""Severe emphysema may be as dark, but septa and vessels cross it: a piece of it fills half to seven tenths of its own
closing by so much, air in the pleura of synthetic scans nine tenths."""

MIN_DARK_SHARE = 0.4
"""Of each lung as dark as that: values that lie too low, and no air in the pleura. A real scan of 19% emphysema has
0.001, and 0.43 with all of its values 60 HU too low; severe emphysema of synthetic scans has 0.15."""

CLOSING_MM = 7.0


@dataclass(frozen=True)
class ClassicalSegmenter:
    """Thresholds, connected components and morphology on a grid of about `spacing_mm`."""

    spacing_mm: float = 3.0

    def __call__(self, image: sitk.Image) -> LungMask:
        """Segment one scan: int16 HU, axes in LPS order.

        Raises:
            ScanError: no-lung.
        """
        coarse = shrink(image, self.spacing_mm)
        scan = CoarseGrid(sitk.GetArrayFromImage(coarse), coarse.GetSpacing())
        notes: list[str] = []
        outside = outside_air(scan)
        dark = (scan.hu_ZYX < LUNG_HU) & ~outside
        airway = find_airway(scan, dark)
        dark &= ~airway.mask_ZYX
        parts = lung_parts(scan, dark)
        parts = lung_parts(scan, parts & ~foreign_gas(scan, parts))
        dark_share = lesser_share(scan, parts & (scan.hu_ZYX < FREE_AIR_HU), parts)
        free = free_air(scan, parts) if dark_share <= MIN_DARK_SHARE else np.zeros_like(parts)
        free_ml = float(free.sum() * scan.voxel_ml)
        if free_ml:
            parts = lung_parts(scan, parts & ~free)
        if not parts.any():
            raise ScanError(
                "no lung was found in the scan",
                "Check that it is a CT of the chest in Hounsfield units; else exclude it",
                code="no-lung",
            )
        labels_ZYX, separation = split_left_right(scan, parts)
        if separation != "apart":
            notes.append(
                "only one lung was found"
                if separation == "one"
                else "the lungs touch each other and were separated by shape"
            )
        labels_ZYX = close_surfaces(scan, labels_ZYX, outside | airway.mask_ZYX | free)
        labels = sitk.GetImageFromArray(labels_ZYX)
        labels.CopyInformation(coarse)
        measures = mask_measures(scan, labels_ZYX)
        measures["free_air_ml"] = free_ml
        if dark_share > MIN_DARK_SHARE:
            measures["dark_share"] = dark_share
        measures["airway_ml"] = float(airway.mask_ZYX.sum() * scan.voxel_ml)
        places = {"free_air_ml": middle_voxel(labels, free)} if free_ml else {}
        return LungMask(labels, measures, tuple(notes), places)


def outside_air(scan: CoarseGrid) -> Mask:
    """Air around the patient, with the blurred rim of the skin.

    Flooded from the sides of the image through voxels as dark as room air: where the field of view cuts the body,
    lung at the border is brighter and is kept. The erosion before keeps the flood from passing thin chest walls.
    """
    air = scan.hu_ZYX < OUTSIDE_AIR_HU
    seed = scan.erode(air, 1.0)
    labels_ZYX, sizes = scan.components(seed)
    rim = [labels_ZYX[:, :, 0], labels_ZYX[:, :, -1], labels_ZYX[:, 0], labels_ZYX[:, -1]]
    touching = np.unique(np.concatenate([face.ravel() for face in rim]))
    keep = np.zeros(len(sizes), bool)
    keep[touching] = True
    keep[0] = False
    reached = scan.dilate(keep[labels_ZYX], 1.0)
    return scan.dilate(reached, 1.0) & (scan.hu_ZYX < TISSUE_HU)


def foreign_gas(scan: CoarseGrid, lung: Mask) -> Mask:
    """Gas that blurring has fused to the lungs: stomach, bowel, leftover main airways.

    Gas is darker than lung. A bulla is surrounded by lung, gas of stomach and bowel by a wall. The criterion is
    therefore the fraction of lung in a shell around the gas. Emphysema on real and synthetic scans has 0.25 or more,
    gas of the bowel 0.04 or less. Gas that is fused to a lung above it has more, so the bound is higher in the lower
    half than in the upper half, where only airways are gas outside of the lung. There, noise would break gas that is
    hardly darker than the bound into pieces, whose surroundings look like lung: means of 3 x 3 x 3 voxels are compared.
    """
    result = np.zeros_like(lung)
    slices = np.flatnonzero(lung.any(axis=(1, 2)))
    if not len(slices):
        return result
    half = (slices[0] + slices[-1]) / 2
    smoothed_ZYX = scan.smoothed(slice(0, int(half) + 2))
    median = float(np.median(smoothed_ZYX[: int(half) + 1][lung[: int(half) + 1]]))
    lower = float(np.clip(median - GAS_CONTRAST_HU, *LOWER_GAS_HU))
    for in_upper_half, threshold, least_fraction in ((False, lower, 0.22), (True, UPPER_GAS_HU, 0.12)):
        hu_ZYX = scan.hu_ZYX if in_upper_half else smoothed_ZYX
        labels_ZYX, sizes = scan.components(lung & (hu_ZYX < threshold))
        for label in np.flatnonzero((sizes * scan.voxel_ml > 2.0) & (sizes < 0.2 * lung.sum())):
            box = bounding_box(labels_ZYX == label, [4, 4, 4])
            gas = labels_ZYX[box] == label
            upper = np.nonzero(gas)[0].mean() + box[0].start > half
            if upper != in_upper_half:
                continue
            rim = scan.dilate(gas, 1.0)
            shell = scan.dilate(rim, 1.0)
            beyond = hu_ZYX[box][scan.dilate(shell, 1.0) & ~shell]
            bound = least_fraction + 0.1 * (not upper and sizes[label] * scan.voxel_ml > BIG_POCKET_ML)
            if np.mean((beyond > -960) & (beyond < -600)) < bound:
                result[box] |= shell & lung[box]
    return result


def free_air(scan: CoarseGrid, lung: Mask) -> Mask:
    """Air of a pneumothorax, and of bullae as large, dark and even, with the blurred rim."""
    labels_ZYX, sizes = scan.components(lung & (scan.hu_ZYX < FREE_AIR_HU))
    free = np.zeros_like(lung)
    for label in np.flatnonzero(sizes * scan.voxel_ml > MIN_FREE_AIR_ML):
        piece = labels_ZYX == label
        closed = scan.erode(scan.dilate(piece, FREE_AIR_GAPS_MM), FREE_AIR_GAPS_MM)
        if sizes[label] >= LEAST_SOLID * closed.sum():
            free |= piece
    return scan.dilate(free, 1.0) & lung if free.any() else free


def lesser_share(scan: CoarseGrid, part: Mask, whole: Mask) -> float:
    """Share of a part in the whole, of the side of the body's middle (in x) where it is less."""
    if not part.any():
        return 0.0
    middle = round(float(np.nonzero(scan.hu_ZYX > TISSUE_HU)[2].mean()))
    sides = (np.s_[:, :, :middle], np.s_[:, :, middle:])
    return min(float(part[side].sum() / max(1, whole[side].sum())) for side in sides)


def lung_parts(scan: CoarseGrid, dark: Mask) -> Mask:
    """The components of dark tissue that are lung: large enough, textured, and inside the body."""
    labels_ZYX, sizes = scan.components(dark)
    kept: list[int] = []
    for label in np.argsort(-sizes, kind="stable")[:12]:
        if sizes[label] * scan.voxel_ml < MIN_COMPONENT_ML:
            break
        if kept and sizes[label] < SMALL_SHARE * sizes[kept[0]]:
            middle_z = np.flatnonzero(np.isin(labels_ZYX, kept).any(axis=(1, 2)))[[0, -1]].mean()
            if np.nonzero(labels_ZYX == label)[0].mean() < middle_z:
                continue
        box = bounding_box(labels_ZYX == label, [2, 2, 2])
        part = labels_ZYX[box] == label
        core = scan.erode(part, scan.spacing[0])
        low, middle, high = np.percentile(scan.hu_ZYX[box][core if core.any() else part], (25, 50, 75))
        # Gas and foam of the table are dark and even, fat and artefacts bright; lung varies.
        if (middle < EVEN_HU and high - low < 30) or middle > -500:
            continue
        if is_enclosed(scan, labels_ZYX == label):
            kept.append(int(label))
    return np.isin(labels_ZYX, kept) if kept else np.zeros_like(dark)


def is_enclosed(scan: CoarseGrid, part: Mask) -> bool:
    """Whether most of a component has tissue in front of it and behind; foam of a table has it on one side."""
    return int(np.count_nonzero(scan.enclosed_ZYX & part)) / int(np.count_nonzero(part)) > 0.5


def close_surfaces(scan: CoarseGrid, labels_ZYX: NDArray[np.uint8], forbidden: Mask) -> NDArray[np.uint8]:
    """Close each lung over vessels and nodules at its surface, as if it went on beyond the ends of the grid.

    Args:
        forbidden: voxels that are never added.
    """
    radii = scan.radius(CLOSING_MM)[::-1]
    ball = Ellipsoid.of(radii, beyond=0.5)
    out = np.zeros_like(labels_ZYX)
    for label in (RIGHT, LEFT):
        mask = labels_ZYX == label
        if not mask.any():
            continue
        box = bounding_box(mask, [r + 1 for r in radii])
        padded = np.pad(mask[box], [(r, r) for r in radii], mode="edge")
        closed = erode(dilate(padded, ball), ball)
        # Cropped before holes are filled: a cavity that is open to an end of the scan is no hole.
        closed = fill_holes(closed[tuple(slice(r, -r) for r in radii)])
        free = (labels_ZYX[box] == 0) & (out[box] == 0) & ~forbidden[box]
        out[box][mask[box] | (closed & free)] = label
    return out
