"""Texture of lung tissue and image noise, with correlation lengths in mm, so that they are the same at any spacing.

Calibrated against real tissue; docs/explanation/phantom.md compares the two.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ctplatform.phantom.grid import Box, resample, smooth_field
from ctplatform.phantom.parameters import Person, Scanner

FINE_MM = 1.0
FINE_HU = 21.0
LOBULE_MM = 11.0
LOBULE_HU = 7.0
REGION_MM = 45.0
REGION_HU = 9.0


def parenchyma(
    box: Box, *, person: Person, depth_mm: np.ndarray, kernel_sigma_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """HU of healthy lung tissue without resolved vessels or noise, as its smooth and its fine part.

    Smooth regions and lobules, denser towards the back (gravity), and a skewed fine structure of unresolved vessels,
    airways and septa.

    Args:
        depth_mm: body y on `box`, growing towards the back.
    """
    coarse = Box(box.start - 5.0, np.full(3, 5.0), np.ceil(box.size * box.spacing / 5.0).astype(int) + 3)
    slow = REGION_HU * smooth_field(coarse, length_mm=REGION_MM, rng=rng)
    slow += LOBULE_HU * smooth_field(coarse, length_mm=LOBULE_MM, rng=rng)
    hu = resample(slow.astype(np.float32), coarse, box)
    hu += depth_mm * np.float32(person.gravity_hu / (2 * person.half_depth))
    hu += np.float32(person.tissue_hu)
    return hu, fine_structure(box, sigma_mm=float(np.hypot(FINE_MM, kernel_sigma_mm)), rng=rng)


def fine_structure(box: Box, *, sigma_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Skewed texture of SD about FINE_HU: more bright specks than dark ones, as unresolved vessels make."""
    field = correlated(box, sigma_mm=sigma_mm, rng=rng)
    field *= np.float32(0.45)
    np.exp(field, out=field)  # log-normal: mean exp(0.45^2 / 2) = 1.1066, SD 0.5246
    field -= np.float32(1.1066)
    field *= np.float32(FINE_HU / 0.5246)
    return field


def correlated(box: Box, *, sigma_mm: float, rng: np.random.Generator) -> np.ndarray:
    """White noise filtered by a Gaussian point spread of `sigma_mm`, with SD 1 at every voxel."""
    field = rng.standard_normal(box.shape, dtype=np.float32)
    for a in range(3):
        field = _blur(field, axis=2 - a, sigma=sigma_mm / float(box.spacing[a]))
    return field


def noise(box: Box, *, scanner: Scanner, sigma_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Image noise in HU.

    Filtered in the slice by the kernel. The SD is that of the stored image whatever its spacing: a coarser pixel
    samples the same image more sparsely, and tube current is set for the slice thickness. More at the shoulders, where
    the beam is weaker.
    """
    field = rng.standard_normal(box.shape, dtype=np.float32)
    for axis, spacing in ((2, box.spacing[0]), (1, box.spacing[1])):
        field = _blur(field, axis=axis, sigma=sigma_mm / float(spacing))
    level = np.linspace(0, 1, box.shape[0], dtype=np.float32)
    profile = (
        0.92 + 0.30 * np.clip((level - 0.75) / 0.25, 0, 1) ** 2 + 0.12 * np.clip((0.3 - level) / 0.3, 0, 1)
    )
    field *= (np.float32(scanner.noise_hu) * profile)[:, None, None]
    return field


def _blur(field: np.ndarray, *, axis: int, sigma: float) -> np.ndarray:
    """Gaussian along one axis that keeps the variance of white noise; no change for a width far below a voxel."""
    if sigma < 0.22:
        return field
    radius = max(1, int(np.ceil(2.5 * sigma)))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= np.sqrt((taps**2).sum())
    blurred: np.ndarray = ndimage.convolve1d(field, taps.astype(np.float32), axis=axis, mode="wrap")
    return blurred
