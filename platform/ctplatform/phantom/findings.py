"""Findings that add density: early interstitial change at the bases, and a ground-glass opacity in one lobe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctplatform.phantom import regions
from ctplatform.phantom.anatomy import Shapes
from ctplatform.phantom.disease import INTERSTITIAL, OPACITY
from ctplatform.phantom.drawing import stamp_ellipsoids
from ctplatform.phantom.grid import Box, Frame, resample, smooth_field
from ctplatform.phantom.parameters import SubjectParameters, random_stream
from ctplatform.phantom.texture import correlated

GROUND_GLASS_HU = np.float32(130.0)
"""HU that interstitial change adds to the tissue."""

LINES_HU = np.float32(170.0)
"""HU of the lines in it (thickened septa)."""

OPACITY_HU = np.float32(-640.0)
SUBPLEURAL_MM, BASE_LEVEL = 16.0, 0.42


@dataclass(frozen=True)
class Placed:
    """Coverage of each finding on a box of the scan, 0 to 1, z, y, x; None where a subject has none."""

    interstitial: np.ndarray | None
    lines: np.ndarray | None
    opacity: np.ndarray | None


def place(box: Box, *, parameters: SubjectParameters, frame: Frame, shapes: Shapes) -> Placed:
    """Place a subject's findings, each from a random stream of its own."""
    findings, seed, index = parameters.findings, parameters.seed, parameters.index
    interstitial = lines = opacity = None
    if findings.interstitial > 0:
        rng = random_stream(seed, index, "ila")
        level = frame.height_on(frame.coarse) / parameters.person.height
        interstitial = _basal(box, findings.interstitial, frame, shapes.lungs, level, rng)
        lines = 1 - np.abs(correlated(box, sigma_mm=2.2, rng=rng)) * np.float32(1 / 0.5)
        np.clip(lines, 0, 1, out=lines)
    if findings.opacity_mm > 0:
        lobe = regions.LOBES[findings.opacity_lobe]
        rng = random_stream(seed, index, "ggo")
        opacity = _opacity(box, findings.opacity_mm, lobe, frame, shapes, rng)
    return Placed(interstitial, lines, opacity)


def apply(hu: np.ndarray, placed: Placed) -> None:
    """Change lung tissue (HU) by the findings, in place; vessels are drawn over them later."""
    if placed.interstitial is not None and placed.lines is not None:
        hu += placed.interstitial * (GROUND_GLASS_HU + LINES_HU * placed.lines)
    if placed.opacity is not None:
        hu += placed.opacity * (OPACITY_HU - hu)


def truth(placed: Placed, lungs: np.ndarray) -> np.ndarray:
    """Bit masks of the findings within the lung mask, uint8; a voxel belongs to one that covers half of it."""
    bits = np.zeros(lungs.shape, np.uint8)
    for alpha, bit in ((placed.interstitial, INTERSTITIAL), (placed.opacity, OPACITY)):
        if alpha is not None:
            bits |= np.where((alpha >= 0.5) & lungs, np.uint8(bit), np.uint8(0))
    return bits


def _basal(
    box: Box, amount: float, frame: Frame, lungs: np.ndarray, level: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Patches of the subpleural shell of the lower zones: the top quantile of a smooth field, `amount` of the lung."""
    coarse = frame.coarse
    shell = (lungs > 0) & (lungs < SUBPLEURAL_MM) & (level < BASE_LEVEL)
    field = smooth_field(coarse, length_mm=22.0, rng=rng) + 3 * (BASE_LEVEL - level)
    share = amount * float((lungs > 0).sum()) / max(float(shell.sum()), 1.0)
    threshold = np.quantile(field[shell], 1 - min(share, 0.95)) if shell.any() else np.inf
    score = np.minimum(
        np.minimum((field - threshold) / 0.5, (SUBPLEURAL_MM - lungs) / 5), 20 * (BASE_LEVEL - level)
    )
    score = np.clip(score, -3, 3).astype(np.float32)
    alpha: np.ndarray = np.clip(np.float32(0.5) + resample(score, coarse, box), 0, 1)
    return alpha


def _opacity(
    box: Box, radius: float, lobe: int, frame: Frame, shapes: Shapes, rng: np.random.Generator
) -> np.ndarray:
    """One lobulated opacity that lies within a lobe, as far as the lobe is deep enough."""
    coarse, lungs = frame.coarse, shapes.lungs
    lobes = regions.lobes(
        lungs > 0, right=shapes.side < 0, oblique_mm=shapes.oblique, horizontal_mm=shapes.horizontal
    )
    away = np.abs(shapes.fissures)
    for depth in (radius, radius / 2, 0.0):
        cells = np.argwhere((lobes == lobe) & (lungs > depth) & (away > depth))[:, ::-1]
        if len(cells):
            break
    centre = coarse.start + cells[rng.integers(len(cells))] * coarse.spacing
    alpha = np.zeros(box.shape, np.float32)
    parts = np.concatenate([centre[None], centre + rng.normal(0, 0.35 * radius, (4, 3))])
    sizes = radius * np.array([0.9, 0.6, 0.6, 0.5, 0.5])
    stamp_ellipsoids(alpha, box, parts, sizes[:, None] * np.ones(3), depth_N=np.full(5, 0.85))
    return alpha
