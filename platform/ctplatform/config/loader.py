"""Recipes by name or file: read, put together, checked.

A recipe is YAML. It may name another one under `extends`, and then holds only what differs. `--set a.b=value`
overrides single keys. Unknown keys and wrong values are reported one a line, with what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ctplatform.config.recipe import Recipe
from ctplatform.errors import ConfigError

RECIPE_DIR = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the platform."""
    return sorted(path.stem for path in RECIPE_DIR.glob("*.yaml"))


def load_recipe(name_or_path: str = "fast", overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe by name or file, resolve what it extends, apply `key=value` overrides.

    Raises:
        ConfigError: no such recipe, unknown key or wrong value; one line a problem.
    """
    values = _resolve(name_or_path, seen=())
    for override in overrides:
        _apply_override(values, override)
    return validate(values, source=name_or_path)


def validate(values: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """Turn plain values into a Recipe; errors come flattened, one line a key."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise ConfigError(
            f"recipe {source!r} has {len(lines)} problem(s):\n  " + "\n  ".join(lines),
            "Correct these keys, in the recipe file or after --set",
            code="config",
        ) from None


def _resolve(name_or_path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    path = _recipe_path(name_or_path)
    if str(path) in seen:
        raise ConfigError(
            f"recipe {name_or_path!r} extends itself", "Remove the circle of `extends`", code="config"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(
            f"recipe {path} is not valid YAML: {error}", "Correct the file", code="config"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path} holds no mapping", "Write `key: value` lines", code="config")
    parent = values.pop("extends", None)
    base = _resolve(parent, (*seen, str(path))) if parent else {}
    return _merge(base, {"name": path.stem, **values})


def _recipe_path(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ConfigError(f"there is no recipe file {name_or_path}", "Check the path", code="config")
    built_in = RECIPE_DIR / f"{name_or_path}.yaml"
    if built_in.is_file():
        return built_in
    raise ConfigError(
        f"there is no recipe {name_or_path!r}",
        f"Use one of {', '.join(recipe_names())}, or the path of a .yaml file",
        code="config",
    )


def _merge(base: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in new.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, sep, text = override.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"--set {override!r} has no `=`", "Write --set section.key=value", code="config")
    *parents, leaf = key.strip().split(".")
    node = values
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is no section", "Check the key", code="config")
        node = child
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        node[leaf] = text


def _explain(item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"]) or "recipe"
    if item["type"] == "extra_forbidden":
        known = _keys_beside(item["loc"])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{location}: unknown key; {hint}"
    return f"{location}: {item['msg']} (got {item['input']!r})" if item["loc"] else item["msg"]


def _keys_beside(location: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    named = False  # whether the part is a name that the user gave, as in `tasks.my_score`
    for part in location[:-1]:
        if named:
            named = False
            continue
        field = model.model_fields.get(str(part))
        if field is None:
            return []
        candidates = (field.annotation, *getattr(field.annotation, "__args__", ()))
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        model, named = models[0], get_origin(field.annotation) is dict
    return sorted(model.model_fields)
