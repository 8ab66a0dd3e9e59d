"""NiiVue, a viewer of volumes for browsers with WebGL2, where it is installed beside this package.

It is installed by npm, `npm install --prefix "$(python -c 'import sys; print(sys.prefix)')" @niivue/niivue@0.69.0`,
into this Python's environment, or without `--prefix` into the current folder. Source: niivue.com, BSD-2-Clause.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.69.0"
INSTALL = f"npm install --prefix {sys.prefix} @niivue/niivue@{VERSION}"

_PACKAGE = Path("node_modules", "@niivue", "niivue")
_BUNDLE = Path("dist", "niivue.umd.js")


@dataclass(frozen=True)
class NiiVue:
    """The viewer.

    Attributes:
        script: its source, which defines the global `niivue`.
        version: of the package.
        licence: of the package.
    """

    script: str
    version: str
    licence: str


def installed(places: Iterable[Path] | None = None) -> NiiVue | None:
    """The viewer in the version that pages are tested with; None where it is not installed.

    Args:
        places: folders with `node_modules`; None: this Python's environment, and the current folder.
    """
    for place in (Path(sys.prefix), Path.cwd()) if places is None else places:
        package = place / _PACKAGE
        try:
            facts = json.loads((package / "package.json").read_text(encoding="utf-8"))
            if facts["version"] == VERSION:
                script = (package / _BUNDLE).read_text(encoding="utf-8")
                return NiiVue(script, VERSION, str(facts["license"]))
        except (OSError, ValueError, KeyError):
            continue
    return None
