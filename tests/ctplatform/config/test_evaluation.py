"""Settings of the sweep that no trial could run with are refused, with what to set instead."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctplatform.config.evaluation import (
    DenseConfig,
    FinetuneConfig,
    SearchConfig,
    SegmentationConfig,
    SweepConfig,
)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (SearchConfig, {"lr_factor": (2.0, 1.0)}, "lr_factor: a range"),
        (SearchConfig, {"weight_decay": (0.0, 1.0)}, "weight_decay: a range"),
        (SearchConfig, {"configurations": 1}, "set 0, or 2 and more"),
        (SweepConfig, {"initialisations": ("drasclr", "mine")}, "'mine'"),
        (SweepConfig, {"initialisations": ("local",)}, "an ablation under sweep.ablations"),
        (DenseConfig, {"stride": 15}, "multiple of 2"),
        (DenseConfig, {"stride": 34}, "less than or equal to 32"),
        (SegmentationConfig, {"crop": 40}, "multiple of 16"),
        (SegmentationConfig, {"overlap": 1.0}, "less than 1"),
        (FinetuneConfig, {"folds": 1}, "greater than or equal to 2"),
    ],
)
def test_impossible_values_are_refused(model, values, message):
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_possible_values_are_taken():
    SearchConfig(configurations=8, lr_factor=(0.5, 2.0))
    config = SweepConfig(initialisations=("mine", "local"), runs={"mine": "run"}, ablations=("local",))
    assert config.initialisations == ("mine", "local")
    assert DenseConfig(stride=32).stride == 32
