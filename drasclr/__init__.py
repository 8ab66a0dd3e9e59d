"""DrasCLR: anatomy-aware self-supervised representations of 3-D lung CT. Needs torch, numpy and safetensors only.

    import drasclr
    encoder = drasclr.load(FOLDER_OR_HUB_ID)
    features_B128 = encoder(patches_BCDHW, locations_B3)

Modules: `encoder` and `contrast` hold the model and its training step, `augment` the views, `atlas` the locations,
`memory` the keys, `optimisation` schedules and parameter groups, `monitor` the monitors of collapse, `weights` their
files, `heads` what is built on an encoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drasclr.atlas import Atlas
    from drasclr.contrast import DrasCLR
    from drasclr.encoder import Encoder
    from drasclr.weights import load

    __version__: str

__all__ = ["Atlas", "DrasCLR", "Encoder", "load"]

# Resolved on first use: importing torch takes seconds, and `drasclr --help` must not wait for it.
_LAZY = {
    "Atlas": "drasclr.atlas",
    "DrasCLR": "drasclr.contrast",
    "Encoder": "drasclr.encoder",
    "load": "drasclr.weights",
}
# Of a source tree that is not installed; a test compares it with pyproject.toml.
_VERSION = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'drasclr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("drasclr")
    except metadata.PackageNotFoundError:
        return _VERSION
