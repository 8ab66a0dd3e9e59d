"""Clinical labels: functions of the true disease plus noise. docs/explanation/phantom.md has the formulae."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BASELINE_HAZARD_PER_YEAR = 0.050
HAZARD_LOG_RATIO_AGE_DECADE = 0.45
HAZARD_LOG_RATIO_EXTENT_TENTH = 0.55
HAZARD_LOG_RATIO_FEV1_TWENTY = 0.25
DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Truth:
    """True extents, counted in the voxel masks as fractions of the lung, with what else the labels depend on."""

    emphysema: float
    centrilobular: float
    panlobular: float
    paraseptal: float
    nodules: int
    airway: float
    age: float
    sex: str


def gold_stage(*, fev1pp: float, fev1_fvc: float) -> int:
    """GOLD spirometric grade; 0 where FEV1/FVC >= 0.70 (no obstruction, preserved-ratio impairment among them).

    Source: Global Initiative for Chronic Obstructive Lung Disease, report 2023, table of airflow severity.
    """
    if fev1_fvc >= 0.70:
        return 0
    return 1 + int(fev1pp < 80) + int(fev1pp < 50) + int(fev1pp < 30)


def hazard_per_year(*, age: float, extent: float, fev1pp: float) -> float:
    """The hazard of death by which survival is drawn, constant in time."""
    log_ratio = (
        HAZARD_LOG_RATIO_AGE_DECADE * (age - 63) / 10
        + HAZARD_LOG_RATIO_EXTENT_TENTH * (extent - 0.08) / 0.1
        + HAZARD_LOG_RATIO_FEV1_TWENTY * (80 - fev1pp) / 20
    )
    return BASELINE_HAZARD_PER_YEAR * float(np.exp(log_ratio))


def clinical(truth: Truth, *, rng: np.random.Generator) -> dict[str, float | int | str]:
    """Draw a subject's labels.

    Returns:
        One value a column: the true extents (fractions of the lung) and the measurements of a clinic.
    """
    burden = truth.centrilobular + 0.9 * truth.panlobular + 0.6 * truth.paraseptal
    fev1pp = 99 - 210 * burden - 8 * truth.airway + rng.normal(0, 7)
    fev1pp = float(np.clip(fev1pp, 14, 140))
    ratio = 0.775 - 0.0016 * (truth.age - 63) - 1.15 * burden - 0.025 * truth.airway + rng.normal(0, 0.03)
    ratio = float(np.clip(ratio, 0.24, 0.92))
    fev1pp, ratio = round(fev1pp, 1), round(ratio, 3)
    # A reader estimates the extent with an error of about a third, and grades it.
    seen = np.log(truth.emphysema + 0.004) + rng.normal(0, 0.3)
    visual = int(np.searchsorted(np.log([0.009, 0.03, 0.08, 0.17, 0.30]), seen))
    seen_edge = np.log(truth.paraseptal + 0.002) + rng.normal(0, 0.3)
    visual_paraseptal = int(np.searchsorted(np.log([0.006, 0.03]), seen_edge))
    breathless = (88 - fev1pp) / 16 + 4 * truth.emphysema + rng.normal(0, 0.7)
    mmrc = int(np.clip(np.floor(breathless + 0.5), 0, 4))
    rate = 0.45 * np.exp(0.035 * (80 - fev1pp) + 0.25 * truth.airway)
    # The rate of a person lasts, so past exacerbations predict future ones best (Hurst et al., NEJM 2010).
    yearly = min(rate, 6.0) * rng.gamma(2.0, 0.5)
    exacerbations = int(min(rng.poisson(yearly), 12))
    hazard = hazard_per_year(age=truth.age, extent=truth.emphysema, fev1pp=fev1pp)
    death_years = rng.exponential(1 / hazard)
    end_years = rng.uniform(6.0, 10.0)
    future = int(min(rng.poisson(yearly * min(1.0, death_years)), 12))
    return {
        "emphysema_extent": truth.emphysema,
        "centrilobular_extent": truth.centrilobular,
        "panlobular_extent": truth.panlobular,
        "paraseptal_extent": truth.paraseptal,
        "nodule_count": truth.nodules,
        "fev1pp": fev1pp,
        "fev1_fvc": ratio,
        "gold_stage": gold_stage(fev1pp=fev1pp, fev1_fvc=ratio),
        "visual_emphysema": visual,
        "visual_paraseptal": visual_paraseptal,
        "mmrc": mmrc,
        "exacerbations": exacerbations,
        "future_exacerbations": future,
        "survival_days": max(1, int(min(death_years, end_years) * DAYS_PER_YEAR)),
        "death": int(death_years < end_years),
        "age": round(truth.age, 1),
        "sex": truth.sex,
    }
