"""Public names of a room, imported on first use.

A room's `__init__` lists its public names without importing the modules that define them: torch, SimpleITK and Ray
take seconds to import, and `drasclr --help` must not wait for them (PEP 562).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(room: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        room: the package's `__name__`.
        names: public name -> submodule of the package that defines it. A public name must differ from every
            submodule's, since importing the submodule would replace it.
    """

    def __getattr__(name: str) -> Any:
        if name in names:
            return getattr(importlib.import_module(f"{room}.{names[name]}"), name)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(names)

    return __getattr__, __dir__
