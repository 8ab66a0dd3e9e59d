"""The probe is drawn with its baselines."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    pretraining,
)
from tests.ctplatform.report.workspace import RUN


def test_the_probe_is_drawn_beside_what_it_is_compared_with(recipe, evaluated):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    (figure,) = pretraining.section(inputs).figures
    (panel,) = [panel for panel in figure.panels if panel.name == "pretraining-probe"]
    assert "at the end probe 0.6" in panel.alt
    assert "36 training subjects x 12 locations" in figure.caption
    # No density was known for this run, so no line claims to be it.
    assert pretraining.levels("probe", inputs) == [(0.31, "before training")]
    assert pretraining.levels("loss", inputs) == []


def test_the_chance_level_is_that_of_equal_logits():
    """With n negatives and equal logits the loss is log(1 + n), and the positive is first in 1 of 1 + n orders."""
    metrics = pd.DataFrame({"step": [1, 2], "negatives": [0, 63]})
    np.testing.assert_allclose(pretraining.chance_level("loss", metrics), [0.0, np.log(64)])
    np.testing.assert_allclose(pretraining.chance_level("top1", metrics), [1.0, 1 / 64])
    assert pretraining.chance_level("lr", metrics) is None
    assert pretraining.chance_level("loss", metrics.drop(columns="negatives")) is None
