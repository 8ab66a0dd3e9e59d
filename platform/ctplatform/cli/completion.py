"""`drasclr completion SHELL`: the script that completes commands, options and paths in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ctplatform.errors import ConfigError

SHELLS = ("bash", "zsh", "tcsh")
#: Arguments that are paths, by their name in the parser's result.
PATHS = {
    *(
        "workspace",
        "output",
        "weights",
        "scans",
        "folder",
        "cohort",
        "atlas",
        "recipe",
        "patches",
        "overlays",
    ),
    *("labels", "mapping", "index"),
}


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`.

    Raises:
        ConfigError: shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise ConfigError(
            "completion is written by shtab, which is not installed",
            "Run: pip install 'drasclr[completion]'",
            code="missing-package",
        ) from None
    for action in _actions(parser):
        if action.dest in PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
    script: str = shtab.complete(parser, shell=shell)
    return script


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
