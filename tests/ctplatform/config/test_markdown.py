"""The reference page lists every section and key of the recipe."""

from __future__ import annotations

from typing import Literal

import pytest

from ctplatform.config.loader import recipe_names
from ctplatform.config.markdown import keys, reference, sections
from ctplatform.config.recipe import Recipe
from ctplatform.config.section import Section, flatten


def test_every_key_of_a_recipe_is_on_the_page():
    page = reference()
    for name in recipe_names():
        assert f"| `{name}` |" in page
    listed = {f"{path}.{name}".lstrip(".") for path, model in sections(Recipe) for name, *_ in keys(model)}
    values = flatten("", Recipe().model_dump(exclude={"phantom"}))
    free = {"placement", "columns", "classes", "runs", "tasks", "external"}  # empty tables of the user
    for key in values:
        key = key.lstrip(".")
        assert key in listed or free & set(key.split(".")), key
    for path, model in sections(Recipe):
        assert f"## {path or '(top level)'}" in page or not list(keys(model))


def test_types_and_defaults_are_words():
    class Example(Section):
        number: int | None = None
        choice: Literal["a", "b"] = "a"
        pair: tuple[float, float] = (0.0, 1.0)

    found = {name: (kind, default) for name, kind, default, _ in keys(Example)}
    assert found["number"] == ("int or none", "None")
    assert found["choice"] == ("a \\| b", "a")
    assert found["pair"] == ("tuple of float, float", "(0.0, 1.0)")


@pytest.mark.parametrize("path", ["pretrain.encoder", "sweep.search", "prepare.quality", "phantom"])
def test_nested_sections_are_found(path):
    assert path in dict(sections(Recipe))
