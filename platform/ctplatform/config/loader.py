"""Recipes by name or file: read, put together, checked.

A recipe is YAML. It may name another one under `extends`, and then holds only what differs. `--set a.b=value`
overrides single keys. Unknown keys and wrong values are reported one a line, with what would be right.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ctplatform.config.recipe import Recipe
from ctplatform.errors import ConfigError

RECIPE_DIR = Path(__file__).parent / "recipes"
#: A recipe file has about a kilobyte.
MAX_BYTES = 1_000_000
MAX_ALIASES = 20
#: Recipes in one chain of `extends`.
MAX_PARENTS = 20
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


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
    if len(seen) == MAX_PARENTS:
        raise ConfigError(
            f"recipe {seen[0]} extends more than {MAX_PARENTS} others", "Put them together", code="config"
        )
    values = _read(path)
    parent = values.pop("extends", None)
    if parent is not None and not isinstance(parent, str):
        raise ConfigError(
            f"recipe {path}: extends: the name or file of one recipe is needed (got {_short(parent)})",
            "Correct this key",
            code="config",
        )
    base = _resolve(parent, (*seen, str(path))) if parent else {}
    return _merge(base, {"name": path.stem, **values})


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a recipe file."""
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            f"recipe {path} has more than {MAX_BYTES:,} bytes", "Check what the file is", code="config"
        )
    try:
        values = _yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(
            f"recipe {path} is not valid YAML: {text[:300]}", "Correct the file", code="config"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"recipe {path} cannot be read: {error.strerror}", "Check the file", code="config"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"recipe {path} holds no mapping", "Write `key: value` lines", code="config")
    return values


def _yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError, ValueError: it is none; a date or number of it does not exist; too many aliases or levels.
    """
    try:
        if text.count("*") > MAX_ALIASES:  # merged again and again, a hundred of them fill any memory
            aliases = sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
            if aliases > MAX_ALIASES:
                raise ValueError(f"it has {aliases} aliases (*name), more than {MAX_ALIASES}")
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except (TypeError, AttributeError, OverflowError, KeyError, IndexError) as error:  # PyYAML's of odd tags
        raise ValueError(f"a value cannot be read ({type(error).__name__})") from None


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
        node[leaf] = _yaml(text)
    except (yaml.YAMLError, ValueError):
        node[leaf] = text


def _explain(item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"]) or "recipe"
    if item["type"] == "extra_forbidden":
        known = _keys_beside(item["loc"])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{location}: unknown key; {hint}"
    problem = str(item["ctx"]["error"]) if item["type"] == "value_error" else str(item["msg"])
    if isinstance(item["input"], Mapping) and item["type"] == "value_error":
        return f"{location}: {problem}"  # of several keys, which it names
    return f"{location}: {problem} (got {_short(item['input'])})"


def _short(value: Any) -> str:
    """A value for a message, cut where it is long or deep."""
    text = _REPR.repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


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
