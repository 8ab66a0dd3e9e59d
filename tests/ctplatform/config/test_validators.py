"""Values that no stage could run with are refused when the recipe is read, with what to set instead."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctplatform.config.cluster import TrackingConfig
from ctplatform.config.evaluation import SearchConfig, SweepConfig
from ctplatform.config.training import PretrainConfig


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (PretrainConfig, {"memory": "location_parallel", "shuffle_keys": True}, "set shuffle_keys=false"),
        (PretrainConfig, {"num_workers": 2, "min_workers": 3}, "between 1 and num_workers=2"),
        (PretrainConfig, {"num_workers": 2, "min_workers": 1, "shuffle_keys": True}, "min_workers=null"),
        (SearchConfig, {"lr_factor": (2.0, 1.0)}, "lr_factor: a range"),
        (SearchConfig, {"weight_decay": (0.0, 1.0)}, "weight_decay: a range"),
        (SearchConfig, {"configurations": 1}, "set 0, or 2 and more"),
        (SweepConfig, {"initialisations": ("drasclr", "mine")}, "'mine'"),
        (TrackingConfig, {"mlflow": "http://user:secret@host"}, "write \\$NAME"),
    ],
)
def test_impossible_values_are_refused(model, values, message):
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_possible_values_are_taken():
    PretrainConfig(num_workers=4, min_workers=2)
    SearchConfig(configurations=8, lr_factor=(0.5, 2.0))
    SweepConfig(initialisations=("mine", "local"), runs={"mine": "run"}, ablations=("local",))
    TrackingConfig(mlflow="http://user:$TOKEN@host")
