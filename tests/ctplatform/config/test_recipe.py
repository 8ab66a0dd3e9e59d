"""Every built-in recipe is valid, and the published one holds the published values."""

from __future__ import annotations

import pytest

from ctplatform.config.loader import load_recipe, recipe_names
from ctplatform.config.recipe import Recipe
from ctplatform.config.training import AugmentationConfig


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_a_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_published_is_as_published():
    pretrain = load_recipe("published").pretrain
    assert (pretrain.queue_size, pretrain.temperature, pretrain.momentum) == (4096, 0.2, 0.999)
    assert (pretrain.lr, pretrain.sgd_momentum, pretrain.weight_decay) == (0.01, 0.9, 1e-4)
    assert (pretrain.epochs, pretrain.scans_per_batch, pretrain.locations_per_batch) == (20, 128, 1)
    assert pretrain.neighbour_aggregation == "sum"
    assert load_recipe("published").atlas.step == 26
    assert pretrain.augmentation == AugmentationConfig()
    assert not pretrain.location_norm


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"atlas": {"neighbours": 0}}, "needs atlas.neighbours >= 1"),
        ({"pretrain": {"beta": 0.0, "local_weight": 0.0}}, "nothing would be learned"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(values)


def test_values_cannot_change_after_loading():
    recipe = Recipe()
    with pytest.raises(ValueError, match="frozen"):
        recipe.pretrain.lr = 1.0
