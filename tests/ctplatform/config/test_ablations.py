"""Ablations take away what they name, and nothing else."""

from __future__ import annotations

import pytest

from ctplatform.config.ablations import CHANGES, ablated
from ctplatform.config.loader import load_recipe, recipe_names
from ctplatform.errors import ConfigError
from tests.ctplatform.evaluation_world import recipe


@pytest.mark.parametrize(
    ("name", "ablation"),
    [("local-only", "local"), ("global-only", "global"), ("unconditioned", "none"), ("moco", "moco")],
)
def test_ablation_recipes_are_the_ablations_of_the_sweep(name, ablation):
    assert load_recipe(f"ablation-{name}").pretrain == ablated(load_recipe("fast"), ablation).pretrain


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


def test_an_ablation_without_neighbours_has_none_to_encode_once():
    base = load_recipe("fast", ["pretrain.encode_once=true"])
    assert base.pretrain.encode_once
    assert not ablated(base, "local").pretrain.encode_once
    assert ablated(base, "global").pretrain.encode_once


def test_unknown_initialisations_are_refused_with_what_is_known():
    with pytest.raises(ConfigError, match=r"'lokal'.*not among drasclr, finetune"):
        recipe(initialisations=["lokal"])
    assert recipe(initialisations=["local", "x"], ablations=["local"], runs={"x": "r"}).sweep.runs == {
        "x": "r"
    }


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_an_ablation_differs_from_its_recipe_in_what_it_says_only(name):
    base = load_recipe("fast", [f"sweep.ablations=[{name}]"])
    other = ablated(base, name).model_dump()
    plain = base.model_dump()
    changed = {key for key in plain["pretrain"] if plain["pretrain"][key] != other["pretrain"][key]}
    assert changed == set(CHANGES[name])
    assert {key for key in plain if plain[key] != other[key]} == {"name", "pretrain", "embed"}
