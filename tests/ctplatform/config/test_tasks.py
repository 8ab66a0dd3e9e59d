"""The section `tasks`: what does not fit is found when the recipe is read."""

import pytest

from ctplatform.config.loader import load_recipe, validate
from ctplatform.errors import ConfigError

X = {"column": "x"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**X, "kind": "regresion"}, "tasks.mine.kind: Input should be 'regression'"),
        ({"kind": "regression"}, "tasks.mine.column: Field required"),
        ({**X, "kind": "binary", "colum": "y"}, "tasks.mine.colum: unknown key; did you mean 'column'?"),
        ({**X, "kind": "survival"}, "survival needs event"),
        ({**X, "kind": "count", "at_least": 2}, "at_least is for kind binary, not count"),
        ({**X, "kind": "label_map"}, "label_map needs a class"),
        ({**X, "kind": "label_map", "classes": {"a": 1, "b": 1}}, "classes need different values"),
        (
            {**X, "kind": "label_map", "classes": {"a": 1}, "whole_lung": True},
            "two classes, the normal one first",
        ),
        ({**X, "kind": "binary", "metrics": ["r2"]}, "of kind binary there are auroc, auprc, brier"),
        ({**X, "kind": "regression", "valid": [5, 1]}, r"valid is \(least, greatest\)"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        validate({"tasks": {"mine": values}})


def test_a_name_that_is_no_file_name_is_refused():
    with pytest.raises(ConfigError, match="part of file names"):
        validate({"tasks": {"my/score": {**X, "kind": "binary"}}})


def test_single_keys_can_be_set():
    recipe = load_recipe(
        "fast", ["tasks.mine.kind=count", "tasks.mine.column=n", "tasks.mine.valid=[null, 9]"]
    )
    assert recipe.tasks["mine"].valid == (None, 9.0)
