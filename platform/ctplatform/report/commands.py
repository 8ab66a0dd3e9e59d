"""The command line that reproduces a figure, without any path of the machine that made it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from ctplatform.config.loader import load_recipe, recipe_names
from ctplatform.config.recipe import Recipe

# Values of these keys may be paths or addresses; a reader substitutes their own.
PRIVATE = frozenset({"atlas.source", "ray.address"})

# Keys that the machine sets where the recipe leaves them open: of no meaning on another one.
FITTED = frozenset({"pretrain.use_gpu", "pretrain.num_workers", "embed.use_gpu"})


def command(stage: str, recipe: Recipe) -> str:
    """The command of one stage, with the recipe and every setting that differs from it.

    `COHORT.csv` and `WORKSPACE` are placeholders for the reader's own.
    """
    if stage == "run" and recipe.phantom is not None:
        return shlex.join(["drasclr", "demo", "--workspace", "WORKSPACE", *recipe_arguments(recipe)])
    words = ["drasclr", stage]
    if stage in ("run", "atlas", "prepare", "sweep"):
        words += ["--cohort", "COHORT.csv"]
    words += ["--workspace", "WORKSPACE", *recipe_arguments(recipe)]
    return shlex.join(words)


def recipe_arguments(recipe: Recipe) -> list[str]:
    """`--recipe NAME` and a `--set key=value` for each value that differs from that recipe.

    Keys that were fitted to the machine are left out.
    """
    if recipe.name not in recipe_names():
        return ["--recipe", f"{recipe.name.rsplit('/', 1)[-1]}.yaml"]
    built_in = dict(settings(load_recipe(recipe.name)))
    words = ["--recipe", recipe.name]
    for key, value in settings(recipe):
        if built_in.get(key) != value and key not in ("name", "description") and not _fitted(recipe, key):
            words += ["--set", f"{key}={'...' if key in PRIVATE else json.dumps(value)}"]
    return words


def settings(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted key, plain value), in the order of the recipe."""
    yield from _flat(recipe.model_dump(mode="json"), "")


def shown(key: str, value: Any) -> str:
    """The value as the report may print it."""
    if key in PRIVATE and value not in (None, "build", "auto"):
        return "(given; not printed, as it may name a place)"
    return json.dumps(value, ensure_ascii=False)


def _fitted(recipe: Recipe, key: str) -> bool:
    """Whether the machine has set a key, and neither the recipe nor the user."""
    section, _, name = key.partition(".")
    return key in FITTED and name not in getattr(recipe, section).model_fields_set


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
