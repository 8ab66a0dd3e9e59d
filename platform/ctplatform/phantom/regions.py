"""Label maps as a reader would mark them: emphysema subtypes by region, and the lobes.

A reader marks a region as centrilobular, not the single hole in it. The subtype of a voxel is therefore that of
the tissue around it, about a secondary lobule wide (Webb, Radiology 2006, doi:10.1148/radiol.2392041968: 1 to 2.5 cm).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ctplatform.phantom.disease import CENTRILOBULAR, PANLOBULAR, PARASEPTAL

SUBTYPES = {"normal": 1, "centrilobular": 2, "panlobular": 3, "paraseptal": 4}
LOBES = {"right upper": 1, "right middle": 2, "right lower": 3, "left upper": 4, "left lower": 5}
LOBULE_MM = 16.0
LEAST_FRACTION = 0.05
"""Of the lung within a lobule; where all subtypes together have less, the region is normal."""


def subtypes(bits_ZYX: np.ndarray, lungs_ZYX: np.ndarray, spacing_ZYX: Sequence[float]) -> np.ndarray:
    """Subtype of every lung voxel, uint8 as `SUBTYPES`: the one with the largest fraction of the lung around it."""
    map_ZYX = np.zeros(lungs_ZYX.shape, np.uint8)
    found = ndimage.find_objects(lungs_ZYX.astype(np.uint8))
    if not found:
        return map_ZYX
    part, size = found[0], [max(1, round(LOBULE_MM / s)) for s in spacing_ZYX]
    lungs, bits = lungs_ZYX[part], bits_ZYX[part]
    lesions = [(bits & bit) > 0 for bit in (CENTRILOBULAR, PANLOBULAR, PARASEPTAL)]
    fractions = np.stack(
        [ndimage.uniform_filter(x.astype(np.float32), size, mode="constant") for x in lesions]
    )
    fractions /= np.maximum(ndimage.uniform_filter(lungs.astype(np.float32), size, mode="constant"), 1e-3)
    diseased = fractions.sum(0) >= LEAST_FRACTION
    map_ZYX[part] = (
        np.where(diseased, fractions.argmax(0) + SUBTYPES["centrilobular"], SUBTYPES["normal"]) * lungs
    )
    return map_ZYX


def lobes(
    lungs_ZYX: np.ndarray, *, right: np.ndarray, oblique_mm: np.ndarray, horizontal_mm: np.ndarray
) -> np.ndarray:
    """Lobe of every lung voxel, uint8 as `LOBES`; distances are positive above the fissures."""
    above = oblique_mm > 0
    upper = np.where(horizontal_mm > 0, LOBES["right upper"], LOBES["right middle"])
    of_right = np.where(above, upper, LOBES["right lower"])
    of_left = np.where(above, LOBES["left upper"], LOBES["left lower"])
    lobes_ZYX: np.ndarray = (np.where(right, of_right, of_left) * lungs_ZYX).astype(np.uint8)
    return lobes_ZYX
