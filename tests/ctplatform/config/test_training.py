"""Settings of pretraining that exclude each other are refused, with what to set instead."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctplatform.config.training import AugmentationConfig, EmbedConfig, PretrainConfig


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (PretrainConfig, {"memory": "location_parallel", "shuffle_keys": True}, "set shuffle_keys=false"),
        (PretrainConfig, {"num_workers": 2, "min_workers": 3}, "between 1 and num_workers=2"),
        (PretrainConfig, {"num_workers": 2, "min_workers": 1, "shuffle_keys": True}, "min_workers=null"),
        (PretrainConfig, {"location_norm": True, "scans_per_batch": 1}, "scans_per_batch to 2 or more"),
        (PretrainConfig, {"best_by": "probe", "probe": {"every_epochs": 0}}, "set probe.every_epochs to 1"),
        (PretrainConfig, {"best_by": "probe", "keep_best": 1}, "set keep_best=0"),
        (PretrainConfig, {"patience": 3}, "set best_by=probe, or patience=null"),
        (PretrainConfig, {"encode_once": True, "beta": 0.0}, "leaves neighbours out"),
        (PretrainConfig, {"encode_once": True, "locations_per_batch": 1}, "has a single one"),
        (AugmentationConfig, {"gamma": (0.0, 1.0)}, "both above 0"),
        (AugmentationConfig, {"gamma": (2.0, 1.0)}, "least, largest"),
        (EmbedConfig, {"encoders": ("other",)}, "'drasclr' or 'random'"),
    ],
)
def test_impossible_values_are_refused(model, values, message):
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_possible_values_are_taken():
    PretrainConfig(num_workers=4, min_workers=2)
    assert PretrainConfig(best_by="probe", patience=3).patience == 3
    assert PretrainConfig(location_norm=True, scans_per_batch=2).location_norm
    assert AugmentationConfig(gamma=(1.0, 1.0)).gamma == (1.0, 1.0)
