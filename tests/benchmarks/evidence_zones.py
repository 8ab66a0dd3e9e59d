"""Density by zone of the lungs: the baseline of the evidence that sees place.

Legend: N locations.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.evidence_parts import Evidence

#: Density of lung tissue by zone: three heights, and near to and far from the middle of the lungs.
ZONES = "density by zone"
TISSUE_HU = -500.0


def zones(evidence: Evidence, cohort: str) -> dict[str, np.ndarray]:
    """LAA-950 and mean density of the lung tissue in the patches of six zones of the lungs, of each subject, [12]."""
    from ctplatform.dataset import ledger
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.dataset.shards import read_patches

    workspace = evidence.workspace(cohort)
    zone_N = zones_of(np.asarray(read_atlas(workspace).coordinates_N3, float))
    rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=True)
    found = {}
    for subject, scan in zip(rows["subject_id"].astype(str), rows["scan_id"], strict=True):
        hu_NDHW = read_patches(workspace, scan)[1]
        measures = []
        for zone in range(int(zone_N.max()) + 1):
            hu = hu_NDHW[zone_N == zone]
            tissue = hu[hu < TISSUE_HU]
            measures += (
                [float((tissue < -950).mean()), float(tissue.mean())] if tissue.size else [0.0, -850.0]
            )
        found[subject] = np.array(measures)
    return found


def zones_of(coordinates_N3: np.ndarray) -> np.ndarray:
    """Zone 0 to 5 of each location: its third by height, and which half by distance from the axis of the body."""
    height_N, across_N = coordinates_N3[:, 2], np.hypot(coordinates_N3[:, 0], coordinates_N3[:, 1])
    third_N = np.searchsorted(np.quantile(height_N, [1 / 3, 2 / 3]), height_N)
    outer_N = (across_N > np.median(across_N)).astype(int)
    zone_N: np.ndarray = 2 * third_N + outer_N
    return np.unique(zone_N, return_inverse=True)[1]
