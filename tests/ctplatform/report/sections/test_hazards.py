"""An effect that changes with time is recognised, a constant one is not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctplatform.report.sections import (
    hazards,
)


def test_effects_that_change_with_time_are_recognised():
    rng = np.random.default_rng(0)
    risk = rng.normal(size=400)
    lasting = rng.exponential(1000 * np.exp(-risk))
    early = rng.exponential(1000 * np.exp(-2 * risk))
    fading = np.where(early < 300, early, 300 + rng.exponential(1000 * np.exp(risk)))
    kept, broken = (
        hazards.hazard(pd.DataFrame({"risk": risk, "time": time, "event": True}))
        for time in (lasting, fading)
    )
    assert kept.p > 0.01
    assert kept.ratio[1] < np.e < kept.ratio[2]
    assert broken.p < 1e-6
    at = np.array([0.1, 4.0])
    first, last = hazards.running_mean(broken.years, broken.effect, at)
    assert first > 1 > -0.2 > last
    few = pd.DataFrame({"risk": risk[:20], "time": lasting[:20], "event": [True] * 5 + [False] * 15})
    assert hazards.hazard(few) is None
