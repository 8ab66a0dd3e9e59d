"""The random parameters of subjects over a cohort."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.phantom.parameters import GOLDEN_RATIO_CONJUGATE, draw


def test_density_is_confounded_but_informative() -> None:
    """Over subjects without disease the mean density varies by breath, and LAA-950 by kernel."""
    spread = [draw(i, seed=0, spacing_mm=3).person.tissue_hu for i in range(60)]
    assert 30 < np.percentile(spread, 95) - np.percentile(spread, 5) < 60
    assert {draw(i, seed=0, spacing_mm=3).scanner.kernel for i in range(20)} == {"soft", "medium", "sharp"}


def test_severity_is_spread_evenly_over_any_cohort() -> None:
    for seed in range(3):
        totals = []
        for i in range(50):
            d = draw(i, seed=seed, spacing_mm=2).disease
            totals.append(d.centrilobular + d.panlobular + d.paraseptal)
        assert 0.3 < np.mean(np.array(totals) < 0.01) < 0.5
        assert max(totals) > 0.3
    assert pytest.approx((5**0.5 - 1) / 2) == GOLDEN_RATIO_CONJUGATE


def test_cohort_varies_in_geometry_and_padding() -> None:
    drawn = [draw(i, seed=0, spacing_mm=2).scanner for i in range(40)]
    assert {s.padding_hu for s in drawn} == {-1000, -1024, -2048, -3024}
    assert len({(s.axes, s.flips) for s in drawn}) >= 4
    assert 2 <= sum(s.oblique_deg != (0.0, 0.0, 0.0) for s in drawn) <= 15
    assert len({s.spacing for s in drawn}) == 40
