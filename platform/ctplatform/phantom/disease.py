"""Emphysema and nodules: their place, their density, and the voxel masks of the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctplatform.phantom.drawing import stamp_ellipsoids
from ctplatform.phantom.grid import Box, Frame, resample, smooth_field
from ctplatform.phantom.parameters import Disease, Person

CENTRILOBULAR, PANLOBULAR, PARASEPTAL, NODULE, INTERSTITIAL, OPACITY = 1, 2, 4, 8, 16, 32
"""Bits of the truth image."""

CENTRAL_MM = 18.0
"""Least distance of central cysts from the pleura."""

HOLE_HU, PANLOBULAR_HU, BULLA_HU, THINNING_HU = -998.0, -976.0, -985.0, np.float32(58.0)


@dataclass(frozen=True)
class Lesions:
    """Coverage of each disease on a box of the scan, 0 to 1, z, y, x."""

    centrilobular: np.ndarray
    thinning: np.ndarray
    """HU that the tissue between centrilobular holes loses."""
    panlobular: np.ndarray
    paraseptal: np.ndarray
    septa: np.ndarray
    nodules: np.ndarray
    nodule_hu: float


def place(
    box: Box,
    *,
    disease: Disease,
    person: Person,
    frame: Frame,
    lungs: np.ndarray,
    rng: np.random.Generator,
    central_cysts: bool = False,
) -> Lesions:
    """Place a subject's disease.

    Args:
        box: the part of the scan around the lungs.
        disease: what to place; extents are met approximately.
        lungs: signed distance of the lungs on the coarse grid of `frame`, mm, positive inside.
        central_cysts: paraseptal cysts in the middle of the lung instead of under the pleura.
    """
    inside = lungs > 0
    level = np.clip(frame.height_on(frame.coarse) / person.height, 0, 1)
    paraseptal, septa = _paraseptal(box, disease, frame, lungs, level, rng, central=central_cysts)
    nodules, nodule_hu = _nodules(box, disease, frame, lungs, rng)
    centrilobular, thinning = _centrilobular(box, disease, frame, inside & (lungs > 2), level, rng)
    return Lesions(
        centrilobular=centrilobular,
        thinning=thinning,
        panlobular=_panlobular(box, disease, frame, inside, level, rng),
        paraseptal=paraseptal,
        septa=septa,
        nodules=nodules,
        nodule_hu=nodule_hu,
    )


def apply(hu: np.ndarray, fine: np.ndarray, vessels: np.ndarray, lesions: Lesions) -> None:
    """Change smooth tissue (HU) and vessel coverage by the disease, in place, and add the remaining fine structure.

    Holes have the density of air with a little tissue. Between them tissue is thinned by lesions too small to be
    resolved. Panlobular regions lose vessels.
    """
    hu -= lesions.thinning
    for alpha, value, kept in (
        (lesions.panlobular, PANLOBULAR_HU, 0.25),
        (lesions.centrilobular, HOLE_HU, 0.60),
        (lesions.paraseptal, BULLA_HU, 0.40),
    ):
        if alpha.any():
            hu += alpha * (np.float32(value) - hu)
            fine *= 1 - np.float32(1 - kept) * alpha
    hu += fine
    if lesions.septa.any():
        hu += lesions.septa * np.float32(110)
    holes = np.maximum(lesions.centrilobular, lesions.paraseptal)
    vessels *= (1 - np.float32(0.85) * holes) * (1 - np.float32(0.8) * lesions.panlobular)


def truth(lesions: Lesions, lungs: np.ndarray) -> np.ndarray:
    """Bit masks of the lesions within the lung mask, uint8; a voxel belongs to a lesion that covers half of it."""
    bits = np.zeros(lungs.shape, np.uint8)
    for alpha, bit in (
        (lesions.centrilobular, CENTRILOBULAR),
        (lesions.panlobular, PANLOBULAR),
        (lesions.paraseptal, PARASEPTAL),
        (lesions.nodules, NODULE),
    ):
        bits |= np.where((alpha >= 0.5) & lungs, np.uint8(bit), np.uint8(0))
    return bits


def _centrilobular(
    box: Box, disease: Disease, frame: Frame, inside: np.ndarray, level: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Small round holes, denser in the upper zones and in clusters: a Boolean model of known coverage."""
    alpha = np.zeros(box.shape, np.float32)
    if disease.centrilobular <= 0:
        return alpha, np.zeros(box.shape, np.float32)
    clusters = np.exp(0.8 * smooth_field(frame.coarse, length_mm=28.0, rng=rng))
    weight = np.exp(disease.zone * (level - 0.5)) * clusters * inside
    mean_coverage = min(disease.centrilobular, 0.6)
    low, high = 0.0, 400.0 / max(float(weight.max()), 1e-6)
    values = weight[inside]
    for _ in range(40):  # scale of the intensity at which the expected coverage is right
        middle = (low + high) / 2
        covered = float(np.mean(1 - np.exp(-np.minimum(middle * values, 1.6))))
        low, high = (middle, high) if covered < mean_coverage else (low, middle)
    spread = 0.32
    # Volume of a hole whose radii are log-normal: E[abc] = r^3 exp(9/2 s^2) for a common factor s.
    hole = 4 / 3 * np.pi * (disease.hole_mm / 2) ** 3 * np.exp(4.5 * spread**2)
    expected = np.minimum(low * weight, 1.6) * float(np.prod(frame.coarse.spacing)) / hole
    number = rng.poisson(expected)
    cells = np.repeat(np.argwhere(number > 0)[:, ::-1], number[number > 0], axis=0)
    centres = frame.coarse.start + (cells + rng.uniform(-0.5, 0.5, cells.shape)) * frame.coarse.spacing
    size = np.minimum(disease.hole_mm / 2 * np.exp(rng.normal(0, spread, len(cells))), 8.0)
    radii = size[:, None] * rng.uniform(0.8, 1.25, (len(cells), 3))
    stamp_ellipsoids(alpha, box, centres, radii, depth_N=rng.uniform(0.7, 1.0, len(cells)))
    expected_coverage = 1 - np.exp(-np.minimum(low * weight, 1.6))
    thinning = THINNING_HU * resample(expected_coverage.astype(np.float32), frame.coarse, box)
    return alpha, thinning


def _panlobular(
    box: Box, disease: Disease, frame: Frame, inside: np.ndarray, level: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Large confluent regions, mostly in the lower zones: the top quantile of a smooth field."""
    if disease.panlobular <= 0.002:
        return np.zeros(box.shape, np.float32)
    field = smooth_field(frame.coarse, length_mm=38.0, rng=rng) + disease.zone * (0.5 - level)
    field += 0.5 * smooth_field(frame.coarse, length_mm=14.0, rng=rng)
    threshold = np.quantile(field[inside], 1 - min(disease.panlobular, 0.9))
    score = resample((field - threshold).astype(np.float32), frame.coarse, box)
    alpha: np.ndarray = np.clip(np.float32(0.5) + score * np.float32(1 / 0.35), 0, 1)
    return alpha


def _paraseptal(
    box: Box,
    disease: Disease,
    frame: Frame,
    lungs: np.ndarray,
    level: np.ndarray,
    rng: np.random.Generator,
    *,
    central: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Thin-walled cysts, mostly in the upper zones: one layer under the pleura, or in the middle of the lung."""
    alpha, septa = np.zeros(box.shape, np.float32), np.zeros(box.shape, np.float32)
    if disease.paraseptal <= 0.0005:
        return alpha, septa
    coarse = frame.coarse
    shell = lungs > CENTRAL_MM if central else (lungs > 0) & (lungs < 9)
    patchy = np.exp(1.0 * smooth_field(coarse, length_mm=40.0, rng=rng))
    weight = (np.exp(2.0 * (level - 0.5)) * patchy)[shell]
    cells = np.argwhere(shell)[:, ::-1]
    wanted = disease.paraseptal * float((lungs > 0).sum()) * float(np.prod(coarse.spacing))
    typical = 3.0 + 14 * disease.paraseptal
    pick = rng.choice(len(cells), size=min(len(cells), 12_000), replace=False, p=weight / weight.sum())
    points = coarse.start + (cells[pick] + rng.uniform(-0.5, 0.5, (len(pick), 3))) * coarse.spacing
    radius = np.clip(typical * np.exp(rng.normal(0, 0.3, len(pick))), 2.0, 11)
    if not central:
        gradient = np.gradient(lungs, float(coarse.spacing[0]))
        slope = np.stack([coarse.sample(g.astype(np.float32), points) for g in gradient[::-1]], axis=1)
        slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 0.3)
        depth = coarse.sample(lungs, points)
        points = points + slope * (0.80 * radius - depth)[:, None]
    # Cysts do not overlap much: at most one in a cell of about the size of a typical one.
    key = np.floor(points / (1.7 * typical)).astype(np.int64)
    _, first = np.unique(key, axis=0, return_index=True)
    keep = np.sort(first)
    points, radius = points[keep], radius[keep]
    radii = radius[:, None] * rng.uniform(0.85, 1.2, (len(radius), 3))
    filled = np.cumsum(4 / 3 * np.pi * radii.prod(axis=1)) * 0.82
    count = int(np.searchsorted(filled, wanted)) + 1
    stamp_ellipsoids(alpha, box, points[:count], radii[:count])
    stamp_ellipsoids(septa, box, points[:count], radii[:count], shell_mm=0.9)
    septa *= 1 - alpha
    return alpha, septa


def _nodules(
    box: Box, disease: Disease, frame: Frame, lungs: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Solid nodules of 5 to 20 mm, slightly lobulated."""
    alpha = np.zeros(box.shape, np.float32)
    hu = float(rng.uniform(10, 60))
    cells = np.argwhere(lungs > 6)[:, ::-1]
    for _ in range(disease.nodules):
        centre = frame.coarse.start + cells[rng.integers(len(cells))] * frame.coarse.spacing
        radius = 2.5 * float(np.exp(abs(rng.normal(0, 0.55))))
        radius = min(radius, 10.0)
        lobes = np.concatenate([centre[None], centre + rng.normal(0, 0.35 * radius, (4, 3))])
        sizes = radius * np.array([1.0, 0.7, 0.7, 0.6, 0.6])
        stamp_ellipsoids(alpha, box, lobes, sizes[:, None] * np.ones(3))
    return alpha, hu
