"""Lung mask of a chest CT, right and left told apart, behind a small protocol.

The classical segmenter works on a grid of a few millimetres: lung is what is dark, lies in the body and is
neither outside air nor airway nor bowel gas. What told these apart on real scans is written beside each step.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform import airway
from ctplatform.coarse import PADDING_HU, Grid, Mask, bounding_box, shrink
from ctplatform.config import LungsConfig
from ctplatform.distance import LEFT, RIGHT
from ctplatform.errors import ScanError, StageError
from ctplatform.sides import split_sides

logger = logging.getLogger(__name__)

LUNG_HU = -450
"""About half-way between lung and soft tissue: where the surface of the lung is on a blurred grid."""
AIR_HU = -950
GAS_HU = -970
LOWER_GAS_HU = -955
EVEN_HU = -930
BIG_POCKET_ML = 25.0
"""Paraseptal emphysema, which borders on tissue like a stomach does, comes in smaller pockets."""
"""Means over a coarse voxel: gas in airways and bowel lies below, even emphysema mostly above."""
TISSUE_HU = -200
MIN_COMPONENT_ML = 25.0
CLOSING_MM = 7.0
BASE_CM2 = 3.0
"""A lung ends below where its cross-section gets smaller than this."""


@dataclass(frozen=True)
class LungMask:
    """Result of a segmenter.

    Attributes:
        labels: uint8, 50 the patient's right and 100 the left lung, on a coarse grid in the scan's physical
            space.
        measures: numbers for the verdict and the ledger.
        notes: what the segmenter found unusual, in words.
    """

    labels: sitk.Image
    measures: dict[str, float]
    notes: tuple[str, ...] = ()


class LungSegmenter(Protocol):
    """Anything that finds the lungs of an int16 HU image with axes in LPS order.

    Raises:
        ScanError: no lung was found.
    """

    def __call__(self, image: sitk.Image) -> LungMask: ...


def make_segmenter(config: LungsConfig) -> LungSegmenter:
    """The segmenter that a recipe names.

    Raises:
        StageError: its package is not installed.
    """
    return SEGMENTERS[config.segmenter](config)


@dataclass(frozen=True)
class ClassicalSegmenter:
    """Thresholds, connected components and morphology on a grid of about `spacing_mm`."""

    spacing_mm: float = 3.0

    def __call__(self, image: sitk.Image) -> LungMask:
        """Segment one scan."""
        coarse = shrink(image, self.spacing_mm)
        scan = Grid(sitk.GetArrayFromImage(coarse), coarse.GetSpacing())
        notes: list[str] = []
        outside = outside_air(scan)
        dark = (scan.hu_ZYX < LUNG_HU) & ~outside
        tree = airway.find(scan, dark)
        dark &= ~tree.mask_ZYX
        parts = lung_parts(scan, dark)
        parts = lung_parts(scan, parts & ~foreign_gas(scan, parts))
        if not parts.any():
            raise ScanError(
                "no lung was found in the scan",
                "Check that it is a CT of the chest in Hounsfield units; else exclude it",
                code="no-lung",
            )
        labels_ZYX, how = split_sides(scan, parts)
        if how != "apart":
            notes.append(
                "only one lung was found"
                if how == "one"
                else "the lungs touch each other and were separated by shape"
            )
        labels_ZYX = close(scan, labels_ZYX, outside | tree.mask_ZYX)
        labels = sitk.GetImageFromArray(labels_ZYX)
        labels.CopyInformation(coarse)
        measures = mask_measures(scan, labels_ZYX)
        measures["airway_ml"] = float(tree.mask_ZYX.sum() * scan.voxel_ml)
        return LungMask(labels, measures, tuple(notes))


def mask_measures(scan: Grid, labels_ZYX: NDArray[np.uint8]) -> dict[str, float]:
    """Volumes, and how much of the lungs lies on the scan's faces."""
    lung = labels_ZYX > 0
    x_mm, y_mm, z_mm = scan.spacing
    right, left = (float((labels_ZYX == label).sum() * scan.voxel_ml / 1000) for label in (RIGHT, LEFT))
    rim = sum(int(face.sum()) for face in (lung[:, :, 0], lung[:, :, -1])) * y_mm * z_mm
    rim += sum(int(face.sum()) for face in (lung[:, 0], lung[:, -1])) * x_mm * z_mm
    return {
        "volume_l": right + left,
        "right_l": right,
        "left_l": left,
        "side_ratio": right / left if left else math.inf,
        "cut_top_cm2": float(lung[-1].sum() * x_mm * y_mm / 100),
        "cut_bottom_cm2": float(lung[0].sum() * x_mm * y_mm / 100),
        "cut_side_cm2": rim / 100,
        "base_step_mm": _base_step(labels_ZYX, scan.spacing),
    }


def _base_step(labels_ZYX: NDArray[np.uint8], spacing: tuple[float, float, float]) -> float:
    """How much higher the right lung ends below than the left one, mm; 0 with one lung only."""
    x_mm, y_mm, z_mm = spacing
    ends = []
    for label in (RIGHT, LEFT):
        area_Z = (labels_ZYX == label).sum(axis=(1, 2)) * x_mm * y_mm / 100
        ends.append(np.flatnonzero(area_Z > BASE_CM2)[:1])
    return float((ends[0][0] - ends[1][0]) * z_mm) if all(len(end) for end in ends) else 0.0


@dataclass(frozen=True)
class LungmaskSegmenter:
    """The U-Net R231 of the package `lungmask`, which includes consolidation and effusion; on a CPU it takes minutes.

    Source: Hofmanninger et al., European Radiology Experimental 2020, doi:10.1186/s41747-020-00173-2.
    """

    spacing_mm: float = 3.0
    weights: str | None = None

    def __post_init__(self) -> None:
        if importlib.util.find_spec("lungmask") is None:
            raise StageError(
                "prepare.lungs.segmenter is lungmask, and the package lungmask is not installed",
                "Run: pip install 'drasclr[lungmask]', on every machine; or set prepare.lungs.segmenter=classical",
                code="not-installed",
            )

    def __call__(self, image: sitk.Image) -> LungMask:
        """Segment one scan."""
        native_ZYX = _lungmask_model(self.weights).apply(image)
        native = sitk.GetImageFromArray(np.array([0, RIGHT, LEFT], np.uint8)[native_ZYX])
        native.CopyInformation(image)
        coarse = shrink(image, self.spacing_mm)
        labels = sitk.Resample(
            native, coarse, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8
        )
        labels_ZYX = sitk.GetArrayViewFromImage(labels)
        if not labels_ZYX.any():
            raise ScanError(
                "no lung was found in the scan",
                "Check that it is a CT of the chest in Hounsfield units; else exclude it",
                code="no-lung",
            )
        scan = Grid(sitk.GetArrayFromImage(coarse), coarse.GetSpacing())
        return LungMask(labels, mask_measures(scan, labels_ZYX))


@lru_cache(maxsize=1)
def _lungmask_model(weights: str | None) -> Any:
    """Once a worker process; without a file of weights the package downloads its own."""
    from lungmask import LMInferer

    return LMInferer(modelname="R231", modelpath=weights, tqdm_disable=True)


SEGMENTERS: dict[str, Callable[[LungsConfig], LungSegmenter]] = {
    "classical": lambda config: ClassicalSegmenter(spacing_mm=config.spacing_mm),
    "lungmask": lambda config: LungmaskSegmenter(spacing_mm=config.spacing_mm, weights=config.weights),
}
"""By the name that a recipe gives; one more is one more entry."""


def outside_air(scan: Grid) -> Mask:
    """Air around the patient, with the blurred rim of the skin.

    Flooded from the sides of the image through voxels that are as dark as room air: where the field of view
        cuts the body,
    lung that touches the rim is brighter and stays. Eroding first keeps the flood from passing thin chest
    walls.
    """
    air = scan.hu_ZYX < AIR_HU
    seed = scan.erode(air, 1.0)
    labels_ZYX, sizes = scan.components(seed)
    rim = [labels_ZYX[:, :, 0], labels_ZYX[:, :, -1], labels_ZYX[:, 0], labels_ZYX[:, -1]]
    touching = np.unique(np.concatenate([face.ravel() for face in rim]))
    keep = np.zeros(len(sizes), bool)
    keep[touching] = True
    keep[0] = False
    reached = scan.dilate(keep[labels_ZYX], 1.0)
    return scan.dilate(reached, 1.0) & (scan.hu_ZYX < TISSUE_HU)


def foreign_gas(scan: Grid, lung: Mask) -> Mask:
    """Gas that blurring has fused to the lungs: stomach, bowel, leftover main airways.

    Gas is darker than lung. A bulla has lung around it; stomach and bowel gas have a wall. So what counts is
    how much of the gas' surroundings is lung. Emphysema on real and synthetic scans has 0.25 or more, gas of
    the bowel 0.04 or less; where gas is fused to a lung that lies over it the share grows, so the bound is
    higher below than above, where only airways are gas but not lung.
    """
    result = np.zeros_like(lung)
    slices = np.flatnonzero(lung.any(axis=(1, 2)))
    if not len(slices):
        return result
    half = (slices[0] + slices[-1]) / 2
    for level, (darkest, share) in enumerate(((LOWER_GAS_HU, 0.22), (GAS_HU, 0.12))):
        labels_ZYX, sizes = scan.components(lung & (scan.hu_ZYX < darkest))
        for label in np.flatnonzero((sizes * scan.voxel_ml > 2.0) & (sizes < 0.2 * lung.sum())):
            box = bounding_box(labels_ZYX == label, [4, 4, 4])
            body = labels_ZYX[box] == label
            upper = np.nonzero(body)[0].mean() + box[0].start > half
            if upper != bool(level):
                continue
            rim = scan.dilate(body, 1.0)
            shell = scan.dilate(rim, 1.0)
            beyond = scan.hu_ZYX[box][scan.dilate(shell, 1.0) & ~shell]
            bound = share + 0.1 * (not upper and sizes[label] * scan.voxel_ml > BIG_POCKET_ML)
            if np.mean((beyond > -960) & (beyond < -600)) < bound:
                result[box] |= shell & lung[box]
    return result


def lung_parts(scan: Grid, dark: Mask) -> Mask:
    """The components of dark tissue that are lung: big enough, textured, and in the body."""
    labels_ZYX, sizes = scan.components(dark)
    kept: list[int] = []
    for label in np.argsort(-sizes, kind="stable")[:12]:
        if sizes[label] * scan.voxel_ml < MIN_COMPONENT_ML or (kept and sizes[label] < 0.05 * sizes[kept[0]]):
            break
        box = bounding_box(labels_ZYX == label, [2, 2, 2])
        part = labels_ZYX[box] == label
        core = scan.erode(part, scan.spacing[0])
        low, middle, high = np.percentile(scan.hu_ZYX[box][core if core.any() else part], (25, 50, 75))
        # Gas is dark and even, foam of the table too; lung varies, and fat and artefacts are bright.
        if (middle < EVEN_HU and high - low < 30) or middle > -500:
            continue
        if enclosed(scan, labels_ZYX == label):
            kept.append(int(label))
    return np.isin(labels_ZYX, kept) if kept else np.zeros_like(dark)


def enclosed(scan: Grid, part: Mask) -> bool:
    """Whether most of a component has tissue in front and behind; foam of a table has it on one side."""
    tissue = (scan.hu_ZYX > TISSUE_HU).astype(np.int32)
    front = np.cumsum(tissue, axis=1) * scan.spacing[1]
    behind = front[:, -1:, :] - front
    return bool(((front >= 6) & (behind >= 6))[part].mean() > 0.5)


def close(scan: Grid, labels_ZYX: NDArray[np.uint8], forbidden: Mask) -> NDArray[np.uint8]:
    """Close each lung over vessels and nodules at its surface; the grid's ends count as lung."""
    radius = scan.radius(CLOSING_MM)
    out = np.zeros_like(labels_ZYX)
    for label in (RIGHT, LEFT):
        mask = labels_ZYX == label
        if not mask.any():
            continue
        box = bounding_box(mask, [r + 1 for r in radius[::-1]])
        room = [(r + 1, r + 1) for r in radius[::-1]]
        padded = scan.image(np.pad(mask[box], room, mode="edge"))
        closed = sitk.BinaryMorphologicalClosing(padded, radius, sitk.sitkBall, 1, False)
        closed = closed[
            tuple(slice(r[0], -r[0]) for r in room[::-1])
        ]  # what an end of the scan opens is no hole
        closed_ZYX = sitk.GetArrayFromImage(sitk.BinaryFillhole(closed)) > 0
        free = (labels_ZYX[box] == 0) & (out[box] == 0) & ~forbidden[box]
        out[box][mask[box] | (closed_ZYX & free)] = label
    return out


def density(image: sitk.Image, labels: sitk.Image) -> dict[str, float]:
    """Densitometry on the scan's own voxels.

    Returns:
        laa950: fraction of lung voxels below -950 HU; perc15: 15th percentile, HU; mean_hu; volume_l,
            right_l, left_l: litres.
    """
    if not sitk.GetArrayViewFromImage(labels).any():
        raise ScanError("no lung was found in the scan", "Check that it is a CT of the chest", code="no-lung")
    image = _part_with_lung(image, labels)
    native = sitk.Resample(
        labels, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8, True
    )
    labels_ZYX = sitk.GetArrayViewFromImage(native)
    # Slice by slice: no copy of all lung voxels at once.
    histogram, total, right = np.zeros(1 - PADDING_HU, np.int64), 0, 0
    for hu_YX, side_YX in zip(sitk.GetArrayViewFromImage(image), labels_ZYX):
        hu = np.maximum(hu_YX[side_YX > 0], PADDING_HU)
        histogram += np.bincount(np.minimum(hu, 0) - PADDING_HU, minlength=len(histogram))
        total += int(hu.sum(dtype=np.int64))
        right += int(np.count_nonzero(side_YX == RIGHT))
    count = int(histogram.sum())
    voxel_l = math.prod(image.GetSpacing()) / 1e6
    return {
        "laa950": float(histogram[: -950 - PADDING_HU].sum() / count),
        "perc15": float(np.searchsorted(np.cumsum(histogram) / count, 0.15) + PADDING_HU),
        "mean_hu": total / count,
        "volume_l": count * voxel_l,
        "right_l": right * voxel_l,
        "left_l": (count - right) * voxel_l,
    }


def _part_with_lung(image: sitk.Image, labels: sitk.Image) -> sitk.Image:
    """The scan cropped to the lung mask's bounding box, a coarse voxel wider."""
    box = bounding_box(sitk.GetArrayViewFromImage(labels) > 0, [1, 1, 1])
    ends = [(s.start, min(s.stop, n)) for s, n in zip(box[::-1], labels.GetSize())]
    corners = itertools.product(*((float(low) - 0.5, float(high) - 0.5) for low, high in ends))
    index_83 = np.array(
        [
            image.TransformPhysicalPointToContinuousIndex(
                labels.TransformContinuousIndexToPhysicalPoint(corner)
            )
            for corner in corners
        ]
    )
    low_3 = np.clip(np.floor(index_83.min(axis=0)).astype(int), 0, np.array(image.GetSize()) - 1)
    high_3 = np.clip(np.ceil(index_83.max(axis=0)).astype(int) + 1, low_3 + 1, image.GetSize())
    return sitk.RegionOfInterest(image, (high_3 - low_3).tolist(), low_3.tolist())
