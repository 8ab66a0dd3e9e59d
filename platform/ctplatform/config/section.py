"""Base of the recipe's sections."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

#: Characters of a name: a file system takes 255 bytes, and hashes and suffixes are appended.
MAX_NAME = 60
_NAME = re.compile(
    rf"(?!\s)[^./\\\x00-\x1f\x7f\ud800-\udfff][^/\\\x00-\x1f\x7f\ud800-\udfff]{{0,{MAX_NAME - 1}}}(?<!\s)"
)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, numbers are finite, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def plain_name(value: str) -> str:
    """A name that becomes one folder or part of a file name below the workspace.

    Raises:
        ValueError: it would be another path, a hidden file, or no file name at all.
    """
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value[:100]!r} becomes the name of a folder; use 1 to {MAX_NAME} characters without / and \\, the first "
            "neither a dot nor a blank, the last no blank"
        )
    return value


Name = Annotated[str, AfterValidator(plain_name)]


def flatten(prefix: str, value: Any) -> dict[str, Any]:
    """Nested values by dotted key, each starting with `prefix`."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(flatten(f"{prefix}.{key}", inner))
    return found
