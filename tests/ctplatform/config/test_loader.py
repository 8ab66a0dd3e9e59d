"""Recipes derive from one another; each problem is one line that names the key."""

from __future__ import annotations

import pytest
import yaml

from ctplatform.config.loader import RECIPE_DIR, load_recipe, recipe_names
from ctplatform.errors import ConfigError


def test_unknown_keys_are_named_with_the_nearest_known_one():
    with pytest.raises(ConfigError) as error:
        load_recipe("demo", ["pretrain.epoch=3", "sweep.seeds=many"])
    assert "pretrain.epoch: unknown key; did you mean 'epochs'?" in str(error.value)
    assert "sweep.seeds" in str(error.value)
    assert "2 problem(s)" in str(error.value)


def test_overrides_win_over_files_and_files_over_parents(tmp_path):
    child = tmp_path / "mine.yaml"
    child.write_text("extends: published\npretrain:\n  lr: 0.5\n")
    recipe = load_recipe(str(child), ["pretrain.epochs=7"])
    assert (recipe.name, recipe.pretrain.lr, recipe.pretrain.epochs) == ("mine", 0.5, 7)
    assert recipe.pretrain.neighbour_aggregation == "sum"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("nope", [], "there is no recipe 'nope'"),
        ("missing.yaml", [], "no recipe file"),
        ("fast", ["pretrain.lr"], "has no `=`"),
        ("fast", ["name.x=1"], "no section"),
        ("fast", ["atlas.neighbours=0"], "pretrain.beta > 0 needs"),
        ("fast", ["pretrain.lr=-1"], "pretrain.lr"),
    ],
)
def test_what_is_wrong_is_said(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(name, overrides)


def test_a_circle_of_recipes_is_found(tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"extends: {b}\n")
    b.write_text(f"extends: {a}\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_recipe(str(a))


def test_every_problem_is_one_readable_line():
    with pytest.raises(ConfigError) as error:
        load_recipe(
            "published",
            [
                "pretrain.precision=fp8",
                "pretrain.probe.everyepoch=2",
                "watch.tensorbord=true",
                "prepare.hu_window=[1, 2, 3]",
                "pretrian.lr=1",
            ],
        )
    lines = str(error.value).splitlines()
    assert lines[0].startswith("recipe 'published' has 5 problem(s)")
    told = {line.split(":")[0].strip(): line for line in lines[1:6]}
    assert told.keys() == {
        *(
            "pretrain.precision",
            "pretrain.probe.everyepoch",
            "watch.tensorbord",
            "prepare.hu_window",
            "pretrian",
        )
    }
    assert "did you mean 'every_epochs'?" in told["pretrain.probe.everyepoch"]
    assert "did you mean 'pretrain'?" in told["pretrian"]
    assert "'fp32' or 'bf16'" in told["pretrain.precision"]


def test_recipes_derive_from_one_another_and_say_only_what_differs():
    """A change of `fast` reaches every recipe that does not say otherwise."""
    for name in set(recipe_names()) - {"fast"}:
        chain = [name]
        while chain[-1] != "fast":
            own = yaml.safe_load((RECIPE_DIR / f"{chain[-1]}.yaml").read_text(encoding="utf-8"))
            chain.append(own["extends"])
        assert load_recipe(name).report == load_recipe("fast").report
        values = dict(leaves(yaml.safe_load((RECIPE_DIR / f"{name}.yaml").read_text(encoding="utf-8"))))
        resolved = dict(leaves(load_recipe(name).model_dump(mode="json")))
        assert {key: resolved[key] for key in values if key != "extends"} == {
            key: value for key, value in values.items() if key != "extends"
        }


def leaves(values: dict, prefix: str = ""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
