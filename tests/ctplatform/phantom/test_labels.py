"""Clinical labels: their rules and their relation to the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctplatform.phantom import (
    gold_stage,
)
from ctplatform.phantom.labels import Truth, clinical, hazard_per_year


@pytest.mark.parametrize(
    ("fev1pp", "ratio", "stage"),
    [
        (95, 0.70, 0),
        (60, 0.75, 0),
        (80, 0.69, 1),
        (79.9, 0.69, 2),
        (50, 0.5, 2),
        (49.9, 0.5, 3),
        (29.9, 0.3, 4),
    ],
)
def test_gold_rule(fev1pp: float, ratio: float, stage: int) -> None:
    assert gold_stage(fev1pp=fev1pp, fev1_fvc=ratio) == stage


def truth(extent: float, *, age: float = 63.0) -> Truth:
    return Truth(extent, 0.6 * extent, 0.3 * extent, 0.1 * extent, 0, 0.0, age, "F")


def test_labels_are_consistent_and_follow_the_truth() -> None:
    rng = np.random.default_rng(0)
    extents = rng.uniform(0, 0.4, 400)
    table = pd.DataFrame([clinical(truth(e), rng=rng) for e in extents])
    stages = [gold_stage(fev1pp=a, fev1_fvc=b) for a, b in zip(table["fev1pp"], table["fev1_fvc"])]
    assert table["gold_stage"].tolist() == stages
    ranks = table.corr("spearman", numeric_only=True)["emphysema_extent"]
    assert ranks["fev1pp"] < -0.8
    assert ranks["fev1_fvc"] < -0.8
    assert ranks["visual_emphysema"] > 0.85
    assert ranks["mmrc"] > 0.6
    assert 0.15 < ranks["exacerbations"] < 0.8
    # Who had some will have some.
    assert table[["exacerbations", "future_exacerbations"]].corr("spearman").iloc[0, 1] > 0.35
    assert ranks["survival_days"] < -0.2
    assert table["visual_emphysema"].between(0, 5).all()
    assert table["mmrc"].between(0, 4).all()
    assert table["death"].isin((0, 1)).all()
    assert (table["survival_days"] > 0).all()


def test_deaths_come_at_the_known_hazard() -> None:
    """Events over time at risk estimate the hazard, which depends on each subject's drawn FEV1."""
    rng = np.random.default_rng(1)
    rows = [clinical(truth(0.15, age=70), rng=rng) for _ in range(4000)]
    expected = np.array([hazard_per_year(age=70, extent=0.15, fev1pp=float(r["fev1pp"])) for r in rows])
    years = np.array([float(r["survival_days"]) for r in rows]) / 365.25
    assert sum(int(r["death"]) for r in rows) == pytest.approx((expected * years).sum(), rel=0.08)
