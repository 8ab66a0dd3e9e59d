"""The overlay: size, views, colours and text."""

from __future__ import annotations

import io

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.preparation.overlay import COLOURS, DOT, HEADER, LINE, VERDICTS, WIDTH, overlay_png
from tests.ctplatform.chest import lung_image, rotation


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels - colour).max(axis=-1) < 24


@pytest.fixture(scope="module", params=["aligned", "oblique"])
def case(request) -> tuple[sitk.Image, sitk.Image]:
    axes = np.eye(3) if request.param == "aligned" else rotation(np.array([1.0, 0.4, 0.2]), 12)
    labels = lung_image(spacing=2.0, direction_33=axes)
    noise = np.random.default_rng(0).normal(0, 60, sitk.GetArrayViewFromImage(labels).shape)
    hu = np.where(sitk.GetArrayViewFromImage(labels) > 0, -850, 40) + noise
    image = sitk.GetImageFromArray(hu.astype(np.int16))
    image.CopyInformation(labels)
    return image, labels


def test_three_views_with_both_lungs_and_locations(case):
    image, labels = case
    centres = np.stack(np.meshgrid(*[np.arange(-90.0, 91, 26)] * 3), axis=-1).reshape(-1, 3)
    png = overlay_png(image, labels, centres_mm_N3=centres, title="scan-1", verdict="accepted")
    assert len(png) < 200_000
    pixels = pixels_of(png)
    assert pixels.shape[1] == WIDTH
    for colour in (COLOURS[RIGHT], COLOURS[LEFT], DOT):
        assert near(pixels, colour).sum() > 50
    right = np.nonzero(near(pixels[40:, :300], COLOURS[RIGHT]))[1].mean()
    left = np.nonzero(near(pixels[40:, :300], COLOURS[LEFT]))[1].mean()
    assert right < left  # seen from the front: the patient's right is on the viewer's left


def test_lung_is_dark_and_upright(case):
    """In the coronal view the lungs' narrow apices are above their wide bases."""
    image, labels = case
    rows = near(pixels_of(overlay_png(image, labels))[:, :300], COLOURS[RIGHT]).any(axis=1)
    row = np.flatnonzero(rows)
    pixels = pixels_of(overlay_png(image, labels))[:, :300]
    widths = [
        np.ptp(np.flatnonzero(near(pixels[r], COLOURS[RIGHT]))) for r in (row[3], row[len(row) * 3 // 5])
    ]
    assert widths[0] < widths[1]


def test_without_mask_and_with_a_long_verdict(case):
    image, _ = case
    verdict = "rejected: " + "the lungs are cut off at the top of the scan; " * 20
    pixels = pixels_of(overlay_png(image, None, title="scan-2", verdict=verdict))
    assert pixels.shape[1] == WIDTH
    assert not near(pixels[60:], COLOURS[LEFT]).any()
    short = pixels_of(overlay_png(image, None, title="scan-2", verdict="rejected"))
    further = (len(pixels) - len(short)) // LINE
    assert further >= 5
    rows = near(pixels[: HEADER + further * LINE], VERDICTS["rejected"]).any(axis=1)
    assert all(rows[21 + k * LINE :][:LINE].any() for k in range(further + 1)), "each line is drawn"


def test_planes_go_through_the_problem(case):
    image, labels = case
    marked = sitk.Image(image)
    index = [n * part // 20 for n, part in zip(image.GetSize(), (8, 5, 7))]  # on none of the middle planes
    marked[tuple(index)] = 3000
    place = image.TransformIndexToPhysicalPoint(index)
    bright = [
        (pixels_of(overlay_png(scan, labels, through=place))[HEADER:] > 240).all(axis=-1).sum()
        for scan in (image, marked)
    ]
    assert bright[1] >= bright[0] + 6, "in the three views"
    middle = pixels_of(overlay_png(marked, labels))
    assert np.array_equal(middle, pixels_of(overlay_png(image, labels)))


def test_an_empty_mask_is_no_problem(case):
    image, labels = case
    assert pixels_of(overlay_png(image, labels * 0)).shape[1] == WIDTH
