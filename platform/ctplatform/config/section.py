"""Base of the recipe's sections."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def flatten(prefix: str, value: Any) -> dict[str, Any]:
    """Nested values by dotted key, each starting with `prefix`."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(flatten(f"{prefix}.{key}", inner))
    return found
