"""Settings of preparation and split: nothing is sampled or split in parts that do not exist."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctplatform.config.preparation import AtlasConfig, LungsConfig, RegistrationConfig, SplitConfig


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (SplitConfig, {"test_fraction": 0.0}, "greater than 0"),
        (SplitConfig, {"test_fraction": 1.0}, "less than 1"),
        (AtlasConfig, {"patch_size": 4}, "greater than 4"),
        (AtlasConfig, {"min_lung_fraction": 1.0}, "less than 1"),
        (RegistrationConfig, {"points": 100}, "greater than 100"),
        (LungsConfig, {"segmenter": "unet"}, "'classical', 'lungmask' or 'totalsegmentator'"),
        (LungsConfig, {"spacing": 3.0}, "Extra inputs"),
    ],
)
def test_impossible_values_are_refused(model, values, message):
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_possible_values_are_taken():
    assert AtlasConfig().source == "build"
    assert SplitConfig(test_fraction=0.5, stratify="gold_stage").stratify == "gold_stage"
    assert LungsConfig(segmenter="lungmask", weights="unet.pth").weights == "unet.pth"
