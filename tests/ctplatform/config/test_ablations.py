"""Ablations take away what they name, and nothing else."""

from __future__ import annotations

import pytest

from ctplatform.config.ablations import ablated
from ctplatform.config.loader import load_recipe, recipe_names


@pytest.mark.parametrize(
    ("recipe", "ablation"),
    [("local-only", "local"), ("global-only", "global"), ("unconditioned", "none"), ("moco", "moco")],
)
def test_ablation_recipes_are_the_ablations_of_the_sweep(recipe, ablation):
    assert load_recipe(f"ablation-{recipe}").pretrain == ablated(load_recipe("fast"), ablation).pretrain


def test_ablations_change_what_they_name():
    fast = load_recipe("fast")
    assert load_recipe("ablation-concat").pretrain.encoder.conditioning == "concat"
    none = load_recipe("ablation-no-neighbours")
    assert (none.atlas.neighbours, none.pretrain.beta) == (0, 0.0)
    assert none.pretrain == load_recipe("ablation-local-only").pretrain
    for name in recipe_names():
        if name.startswith("ablation-"):
            changed = load_recipe(name)
            assert changed.pretrain.model_dump() != fast.pretrain.model_dump()
            assert (changed.prepare, changed.split, changed.sweep) == (fast.prepare, fast.split, fast.sweep)


@pytest.mark.parametrize("name", ["local", "global", "none", "moco"])
def test_an_ablation_is_a_run_of_its_own_without_the_random_control(name):
    fast = load_recipe("fast")
    changed = ablated(fast, name)
    assert changed.name == f"fast-{name}"
    assert changed.embed.encoders == ("drasclr",)
    kept = set(fast.model_dump()) - {"name", "pretrain", "embed"}
    assert changed.model_dump(include=kept) == fast.model_dump(include=kept)
