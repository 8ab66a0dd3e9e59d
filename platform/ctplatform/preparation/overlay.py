"""One image a scan for visual quality control: three views, the lung contours and the atlas locations."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ctplatform.lungs.fine_mask import OUTSIDE_HU, fine_mask
from ctplatform.lungs.mask import LEFT, RIGHT

Points = NDArray[np.floating]

WIDTH = 900
HEADER = 40
"""Pixels above the slices, with one line of reasons."""

LINE = 16
"""Pixels of each further line."""

GAP = 6
WINDOW_HU = (-1000.0, 200.0)
GREYS = 40
MARGIN_MM = 35.0
NEAR_MM = 8.0
"""Locations closer than this to a slice are drawn on it."""

COLOURS = {RIGHT: (230, 159, 0), LEFT: (86, 180, 233)}
"""Orange and sky blue of Okabe and Ito's palette, which colour-blind readers can distinguish."""
DOT = (240, 228, 66)
VERDICTS = {
    "accepted": (0, 158, 115),
    "flagged": (240, 228, 66),
    "rejected": (213, 94, 0),
    "failed": (213, 94, 0),
}


@dataclass(frozen=True)
class View:
    """A slice in LPS space: fixed axis, axis to the right, axis downwards with its sign."""

    name: str
    fixed: int
    across: int
    down: int
    sign: int


VIEWS = (View("coronal", 1, 0, 2, -1), View("axial", 2, 0, 1, 1), View("sagittal", 0, 1, 2, -1))


def overlay_png(
    image: sitk.Image,
    labels: sitk.Image | None,
    *,
    centres_mm_N3: NDArray[np.floating] | None = None,
    title: str = "",
    verdict: str = "",
    through: tuple[float, float, float] | None = None,
) -> bytes:
    """Coronal, axial and sagittal slice through the lungs as a PNG, 900 pixels wide; the patient's right is
    on the left.

    Args:
        labels: lung mask (50 right, drawn orange; 100 left, drawn blue); without it the slices go through
            the scan's middle.
        centres_mm_N3: atlas locations in the scan, LPS mm; those near a slice are drawn on it.
        verdict: state and reasons, drawn whole, in as many lines as they take.
        through: point of all three slices, LPS mm: where the problem is; None: the middle of the lungs.
    """
    low_3, high_3 = _extent(image)
    if labels is not None:
        low_3, high_3 = _around_lungs(labels, low_3, high_3)
    points = [np.array(through)] * 3 if through else _middle(labels, low_3, high_3)
    widths = [high_3[view.across] - low_3[view.across] for view in VIEWS]
    heights = [high_3[view.down] - low_3[view.down] for view in VIEWS]
    mm = max(sum(widths) / (WIDTH - GAP * (len(VIEWS) - 1)), max(heights) / 400)
    height = math.ceil(max(heights) / mm)
    lines = _wrapped(verdict)
    header = HEADER + LINE * (len(lines) - 1)
    canvas = Image.new("RGB", (WIDTH, header + height), (0, 0, 0))
    left = max(0, (WIDTH - round(sum(widths) / mm) - GAP * (len(VIEWS) - 1)) // 2)
    for view, point_3 in zip(VIEWS, points):
        panel = _panel(image, labels, centres_mm_N3, view, point_3, low_3, high_3, mm)
        canvas.paste(panel, (left, header + (height - panel.height) // 2))
        left += panel.width + GAP
    draw = ImageDraw.Draw(canvas)
    draw.text((6, 3), title, fill=(255, 255, 255), font=ImageFont.load_default(15))
    colour = VERDICTS.get(
        verdict.split(":")[0].split()[0].lower() if verdict.split() else "", (200, 200, 200)
    )
    for k, line in enumerate(lines):
        draw.text((6, 21 + LINE * k), line, fill=colour, font=ImageFont.load_default(13))
    buffer = io.BytesIO()
    canvas.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        buffer, "PNG", compress_level=6
    )
    return buffer.getvalue()


def _extent(image: sitk.Image) -> tuple[Points, Points]:
    """Bounding box of the scan in LPS mm."""
    last = [n - 1 for n in image.GetSize()]
    corners = [
        image.TransformIndexToPhysicalPoint([last[a] * ((k >> a) & 1) for a in range(3)]) for k in range(8)
    ]
    return np.min(corners, axis=0), np.max(corners, axis=0)


def _around_lungs(labels: sitk.Image, low_3: Points, high_3: Points) -> tuple[Points, Points]:
    """The bounding box of the lungs with a margin, within the scan."""
    lung = sitk.GetArrayViewFromImage(labels) > 0
    if not lung.any():
        return low_3, high_3
    ends = [np.flatnonzero(lung.any(axis=axes))[[0, -1]] for axes in ((0, 1), (0, 2), (1, 2))]
    corners = [
        labels.TransformIndexToPhysicalPoint([int(ends[a][(k >> a) & 1]) for a in range(3)]) for k in range(8)
    ]
    low, high = np.min(corners, axis=0) - MARGIN_MM, np.max(corners, axis=0) + MARGIN_MM
    return np.maximum(low_3, low), np.minimum(high_3, high)


def _middle(labels: sitk.Image | None, low_3: Points, high_3: Points) -> list[Points]:
    """A point in each view's slice: the middle of both lungs, for the sagittal one of the right lung."""
    if labels is None:
        return [(low_3 + high_3) / 2] * 3
    labels_ZYX = sitk.GetArrayViewFromImage(labels)

    def centre(mask: NDArray[np.bool_]) -> Points:
        counts = [mask.sum(axis=axes) for axes in ((0, 1), (0, 2), (1, 2))]
        index = [float((c * np.arange(len(c))).sum() / c.sum()) for c in counts]
        return np.array(labels.TransformContinuousIndexToPhysicalPoint(index))

    lung = labels_ZYX > 0
    if not lung.any():
        return [(low_3 + high_3) / 2] * 3
    both = centre(lung)
    right = labels_ZYX == RIGHT
    return [both, both, centre(right) if right.any() else both]


def _panel(
    image: sitk.Image,
    labels: sitk.Image | None,
    centres_mm_N3: NDArray[np.floating] | None,
    view: View,
    point_3: Points,
    low_3: Points,
    high_3: Points,
    mm: float,
) -> Image.Image:
    size = [round((high_3[axis] - low_3[axis]) / mm) for axis in (view.across, view.down)]
    start_3 = np.array(point_3, dtype=float)
    start_3[view.across] = low_3[view.across] + mm / 2
    start_3[view.down] = low_3[view.down] + mm / 2 if view.sign > 0 else high_3[view.down] - mm / 2
    direction_33 = np.zeros((3, 3))
    direction_33[view.across, 0], direction_33[view.down, 1] = 1, view.sign
    direction_33[:, 2] = np.cross(direction_33[:, 0], direction_33[:, 1])

    plane = sitk.Image([*size, 1], sitk.sitkUInt8)
    plane.SetOrigin(start_3.tolist())
    plane.SetSpacing([mm] * 3)
    plane.SetDirection(direction_33.ravel().tolist())
    cut = sitk.Resample(image, plane, sitk.Transform(), sitk.sitkLinear, OUTSIDE_HU, sitk.sitkInt16)
    hu_YX = sitk.GetArrayFromImage(cut)[0]
    scaled_YX = np.clip((hu_YX - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]), 0, 1)
    grey_YX = (np.rint(scaled_YX * (GREYS - 1)) * (255 / (GREYS - 1))).astype(np.uint8)
    rgb_YXC = np.repeat(grey_YX[..., None], 3, axis=-1)
    if labels is not None:
        lungs_YX = sitk.GetArrayFromImage(fine_mask(image, labels, on=cut))[0]
        for label, colour in COLOURS.items():
            rgb_YXC[_outline(lungs_YX == label)] = colour
    panel = Image.fromarray(rgb_YXC)
    draw = ImageDraw.Draw(panel)
    if centres_mm_N3 is not None:
        near_N3 = centres_mm_N3[np.abs(centres_mm_N3[:, view.fixed] - point_3[view.fixed]) < NEAR_MM]
        across_N = (near_N3[:, view.across] - start_3[view.across]) / mm
        down_N = (near_N3[:, view.down] - start_3[view.down]) * view.sign / mm
        for x, y in zip(across_N, down_N):
            draw.rectangle((x - 1, y - 1, x + 1, y + 1), fill=DOT)
    draw.text((4, panel.height - 16), view.name, fill=(170, 170, 170), font=ImageFont.load_default(11))
    return panel


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels on both sides of a mask's edge: two wide, to be visible in a small image."""
    padded = np.pad(mask, 1)
    outer = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return outer & ~inner


def _wrapped(text: str) -> list[str]:
    """A text in lines as wide as the image."""
    font = ImageFont.load_default(13)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > WIDTH - 12:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
