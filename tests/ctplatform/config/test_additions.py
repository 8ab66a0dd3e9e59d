"""Settings that came later change neither names nor records as long as they keep their default."""

import pytest

from ctplatform.config.additions import LATER, nested_without_neutral, without_neutral
from ctplatform.config.loader import validate
from ctplatform.config.recipe import Recipe
from ctplatform.config.section import flatten


def test_every_later_setting_exists():
    keys = flatten("", Recipe().model_dump(mode="json"))
    for later in LATER:
        assert any(f"{key[1:]}.".startswith(f"{later}.") for key in keys), later


def test_defaults_are_left_out_and_others_kept():
    plain = Recipe().pretrain.model_dump(mode="json")
    kept = nested_without_neutral("pretrain", plain)
    assert kept == {key: value for key, value in plain.items() if f"pretrain.{key}" not in LATER}
    changed = validate({"pretrain": {"location_norm": True, "augmentation": {"translation": 4}}}).pretrain
    kept = nested_without_neutral("pretrain", changed.model_dump(mode="json"))
    assert kept["location_norm"] is True
    assert kept["augmentation"] == {"translation": 4.0}


@pytest.mark.parametrize("key", ["pretrain.lr", "pretrain.augment", "prepare.lungs.method"])
def test_earlier_settings_are_never_left_out(key):
    values = flatten("", Recipe().model_dump(mode="json"))
    dotted = {name[1:]: value for name, value in values.items()}
    assert key in without_neutral(dotted) or key not in dotted


def test_dotted_and_nested_agree():
    recipe = validate({"pretrain": {"decoupled": True, "augmentation": {"flip_probability": 0.5}}})
    nested = nested_without_neutral("pretrain", recipe.pretrain.model_dump(mode="json"))
    assert flatten("pretrain", nested) == without_neutral(
        flatten("pretrain", recipe.pretrain.model_dump(mode="json"))
    )
