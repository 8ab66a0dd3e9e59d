"""The table of all recipe keys: `python -m ctplatform.config.markdown > docs/reference/recipes.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ctplatform.config.loader import load_recipe, recipe_names
from ctplatform.config.recipe import Recipe

HEAD = """# Recipes

A recipe is YAML with the sections below. It may name another recipe under `extends` and then holds only what differs;
`--set section.key=value` overrides a single key. Unknown keys and wrong values are errors, one line each. The resolved
recipe is stored with every run (`pretrain/<run>/config.json`).

| recipe | |
|---|---|
"""


def reference() -> str:
    """docs/reference/recipes.md: every section of the recipe, its keys, types, defaults and meanings."""
    lines = [
        HEAD + "\n".join(f"| `{name}` | {load_recipe(name).description} |" for name in recipe_names()),
        "",
    ]
    for path, model in sections(Recipe):
        rows = list(keys(model))
        if not rows:
            continue
        title = f"## {path}" if path else "## (top level)"
        lines += [
            title,
            "",
            inspect.cleandoc(model.__doc__ or ""),
            "",
            "| key | type | default | |",
            "|---|---|---|---|",
        ]
        lines += [f"| `{name}` | {kind} | `{default}` | {text} |" for name, kind, default, text in rows]
        lines.append("")
    return "\n".join(lines)


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted path, model) of a model and all models in it."""
    yield path, model
    for name, field in model.model_fields.items():
        inner = _model(field.annotation)
        if inner:
            named = ".NAME" if get_origin(field.annotation) is dict else ""
            yield from sections(inner, f"{path}.{name}{named}".lstrip("."))


def keys(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """(name, type, default, description) of a model's own keys."""
    for name, field in model.model_fields.items():
        if _model(field.annotation) is None:
            default = "required" if field.is_required() else field.get_default(call_default_factory=True)
            yield name, _kind(field.annotation), str(default), field.description or ""


def _model(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " \\| ".join(str(value) for value in get_args(annotation))
    if get_args(annotation):
        inner = [_kind(a) for a in get_args(annotation) if a is not Ellipsis]
        name = getattr(get_origin(annotation), "__name__", "")
        return " or ".join(inner) if name in ("UnionType", "Union") else f"{name} of {', '.join(inner)}"
    return getattr(annotation, "__name__", str(annotation)).replace("NoneType", "none")


if __name__ == "__main__":
    print(reference(), end="")
