"""Compare the phantom's lung tissue with real tissue, and draw the figures of docs/explanation/phantom.md.

    python tests/benchmarks/phantom_calibration.py [--patches EmphysemaPatches.mat] [--real-ct FOLDER] [--images FOLDER]

The patches are the emphysema patches of the Chest Imaging Platform (31 x 31 pixels, HU, six classes), which come with no
pixel size; 0.65 mm is assumed. The phantom is rendered at that size in small blocks of lung; patches are classed by its truth.
Prints Markdown tables; writes figures only where --images is given.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.config import PhantomConfig
from ctplatform.phantom import make_subject
from ctplatform.phantom.disease import CENTRILOBULAR, PANLOBULAR, PARASEPTAL
from ctplatform.phantom.grid import Box
from ctplatform.phantom.person import KERNEL_SIGMA_MM, draw, stream
from ctplatform.phantom.scene import Scene
from ctplatform.phantom.texture import noise

PIXEL_MM, PATCH = 0.65, 31
TISSUE_HU = -700
"""Pixels above are vessels, walls or chest wall and are left out of the tissue statistics."""
CLASSES = (
    "normal",
    "paraseptal",
    "panlobular",
    "mild centrilobular",
    "moderate centrilobular",
    "severe centrilobular",
)


def tissue_statistics(patches_NYX: np.ndarray, *, pixel_mm: float) -> dict[str, float]:
    """Mean over patches of mean, SD, LAA-950, autocorrelation length (1/e, mm) and share of pixels above TISSUE_HU."""
    rows, curves = [], []
    for patch in patches_NYX.astype(float):
        tissue = patch < TISSUE_HU
        if tissue.mean() < 0.25:
            continue
        values = patch[tissue]
        rows.append((values.mean(), values.std(), (values < -950).mean(), 1 - tissue.mean()))
        curves.append(autocorrelation(patch, tissue))
    mean, sd, laa, bright = np.mean(rows, axis=0)
    curve = np.mean(curves, axis=0)
    length = float(np.interp(-1 / np.e, -curve, np.arange(len(curve)))) * pixel_mm
    return {"n": len(rows), "mean": mean, "sd": sd, "laa950": laa, "length": length, "bright": bright}


def autocorrelation(patch: np.ndarray, mask: np.ndarray, *, lags: int = 9) -> np.ndarray:
    """Autocorrelation along rows and columns within a mask, lags 0, 1, ... pixels."""
    centred = np.where(mask, patch - patch[mask].mean(), 0)
    result = []
    for lag in range(lags):
        total, count = 0.0, 0
        for a, m in ((centred, mask), (centred.T, mask.T)):
            both = m[lag:] & m[: len(m) - lag]
            total += float((a[lag:] * a[: len(a) - lag])[both].sum())
            count += int(both.sum())
        result.append(total / max(count, 1))
    return np.array(result) / result[0]


def real_patches(path: Path) -> dict[str, np.ndarray]:
    """The classes of the patch file, [N, 31, 31] each."""
    from scipy.io import loadmat

    cells = loadmat(path)["EmphyPatch"]
    return {name: cells[0, i].transpose(2, 0, 1) for i, name in enumerate(CLASSES)}


def phantom_patches(indices: Iterable[int], *, seed: int = 0, blocks: int = 6) -> dict[str, np.ndarray]:
    """Patches of the phantom at the pixel size of the real ones, classed by the truth within the lung."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in CLASSES}
    for index in indices:
        drawn = draw(index, seed=seed, spacing_mm=1.8)
        scene = Scene.build(drawn)
        rng = stream(seed, index, "blocks")
        lung = np.argwhere(scene.shapes.lungs > 2)[:, ::-1]
        for _ in range(blocks):
            middle = scene.frame.coarse.start + lung[rng.integers(len(lung))] * scene.frame.coarse.spacing
            size = np.array([5 * PATCH, 5 * PATCH, 9])
            box = Box(middle - size * PIXEL_MM / 2, np.full(3, PIXEL_MM), size)
            rendered = scene.render(box)
            hu = rendered.hu + noise(
                box, scanner=drawn.scanner, sigma_mm=KERNEL_SIGMA_MM[drawn.scanner.kernel], rng=rng
            )
            hu += drawn.scanner.offset_hu
            for patch, lungs, bits in zip(*(tiles(a[4]) for a in (hu, rendered.lungs, rendered.disease))):
                name = classify(lungs, bits)
                if name:
                    found[name].append(np.rint(patch))
    return {name: np.array(list_) for name, list_ in found.items()}


def tiles(plane_YX: np.ndarray) -> np.ndarray:
    """Cut a plane into patches, [N, PATCH, PATCH]."""
    ny, nx = plane_YX.shape[0] // PATCH, plane_YX.shape[1] // PATCH
    cut = plane_YX[: ny * PATCH, : nx * PATCH].reshape(ny, PATCH, nx, PATCH)
    return cut.transpose(0, 2, 1, 3).reshape(-1, PATCH, PATCH)


def classify(lungs: np.ndarray, bits: np.ndarray) -> str | None:
    """Class of a patch by its truth, or None where it is mixed or mostly outside of the lung."""
    inside = lungs > 0
    share = inside.mean()
    if share < 0.35:
        return None
    centrilobular, panlobular, paraseptal = (
        float(((bits & bit) > 0)[inside].mean()) for bit in (CENTRILOBULAR, PANLOBULAR, PARASEPTAL)
    )
    if paraseptal > 0.12 and share < 0.98 and panlobular < 0.1:
        return "paraseptal"
    if share < 0.90:
        return None
    if panlobular > 0.85:
        return "panlobular"
    if panlobular > 0.05 or paraseptal > 0.02:
        return None
    if centrilobular < 0.01:
        return "normal"
    if centrilobular < 0.03:
        return None
    edges = {"mild centrilobular": 0.15, "moderate centrilobular": 0.40, "severe centrilobular": 1.1}
    return next(name for name, edge in edges.items() if centrilobular < edge)


def table(real: dict[str, np.ndarray], phantom: dict[str, np.ndarray]) -> str:
    """The comparison in Markdown."""
    lines = [
        "| tissue | source | patches | mean (HU) | SD (HU) | LAA-950 | autocorrelation length (mm) | above -700 HU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in CLASSES:
        for source, patches in (("real", real.get(name)), ("phantom", phantom[name])):
            if patches is None or len(patches) < 5:
                continue
            s = tissue_statistics(patches, pixel_mm=PIXEL_MM)
            lines.append(
                f"| {name} | {source} | {s['n']:.0f} | {s['mean']:.0f} | {s['sd']:.0f} | {s['laa950']:.3f} "
                f"| {s['length']:.2f} | {s['bright']:.3f} |"
            )
    return "\n".join(lines)
