"""DrasCLR: anatomy-aware self-supervised representations of 3-D lung CT. Needs torch, numpy and safetensors only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drasclr.atlas import Atlas
    from drasclr.weights import load

__all__ = ["Atlas", "load"]

# Resolved on first use: importing torch takes seconds, and `drasclr --help` must not wait for it.
_LAZY = {"Atlas": "drasclr.atlas", "load": "drasclr.weights"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'drasclr' has no attribute {name!r}")
