"""What a representation holds, where the truth is known: why one of them predicts and another does not.

Legend: N scans, L locations, D features.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctplatform.config.recipe import PhantomConfig
from ctplatform.inference.pooling import MIN_INSIDE
from ctplatform.metrics.scores import METRICS, Targets
from ctplatform.phantom.files import is_dicom
from ctplatform.phantom.parameters import draw
from ctplatform.tasks.heads import Ridge, Standardiser

KERNELS = {"soft": 0.0, "medium": 1.0, "sharp": 2.0}


def truths(cohort: pd.DataFrame, config: PhantomConfig) -> pd.DataFrame:
    """What made each scan of a synthetic cohort, one column a quantity, rows as in the cohort.

    Disease first, then what a density threshold mistakes for disease.
    """
    rows = []
    for row in cohort.itertuples():
        index = int(str(row.scan_id).rsplit("-", 1)[1])
        drawn = draw(index, seed=config.seed, spacing_mm=config.spacing_mm, dicom=is_dicom(index, config))
        rows.append(
            {
                "emphysema, log of the extent": np.log(row.emphysema_extent + 0.004),
                "centrilobular extent": row.centrilobular_extent,
                "panlobular extent": row.panlobular_extent,
                "paraseptal extent": row.paraseptal_extent,
                "airway disease": drawn.disease.airway,
                "density of healthy tissue (breath)": drawn.person.tissue_hu,
                "noise, log": np.log(drawn.scanner.noise_hu),
                "reconstruction kernel": KERNELS[drawn.scanner.kernel],
            }
        )
    return pd.DataFrame(rows, index=cohort.index)


def explained(train_ND: np.ndarray, test_ND: np.ndarray, train_N: np.ndarray, test_N: np.ndarray) -> float:
    """R2 on the test scans of ridge regression fitted on the training scans."""
    probe = Ridge().fit(train_ND, Targets(train_N), seed=0)
    return METRICS["r2"].value(Targets(test_N), probe.predict(test_ND))


def spectrum(x_ND: np.ndarray) -> tuple[float, float]:
    """(effective rank, share of the first component) of standardised features over scans.

    The rank is exp of the entropy of the normalised singular values (Roy and Vetterli 2007).
    """
    scaled_ND = Standardiser(x_ND)(x_ND)
    singular = np.linalg.svd(scaled_ND, compute_uv=False)
    share = singular / singular.sum()
    rank = float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()))
    return rank, float(np.square(singular[0]) / np.square(singular).sum())


def variance_shares(vectors_NLD: np.ndarray, inside_NL: np.ndarray) -> tuple[float, float]:
    """(share of the place, share of the scan) of the variance of patch features, mean over the features.

    Two-way analysis of variance without interaction; what is left is the patch itself. Locations that are mostly
    outside of some scan are left out.
    """
    x_NLD = vectors_NLD[:, (inside_NL >= MIN_INSIDE).all(0)].astype(float)
    total_D = x_NLD.var((0, 1))
    live_D = total_D > 1e-12
    place_D = x_NLD.mean(0).var(0)[live_D] / total_D[live_D]
    scan_D = x_NLD.mean(1).var(0)[live_D] / total_D[live_D]
    return float(place_D.mean()), float(scan_D.mean())
