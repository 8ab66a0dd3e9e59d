"""The command `drasclr`: arguments, progress and results on the terminal, state of a workspace, one scan in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.cli.console import Console
    from ctplatform.cli.explain import explain_lines
    from ctplatform.cli.main import parser
    from ctplatform.cli.run import ChainOptions, run_cohort, run_demo
    from ctplatform.cli.status import show_status

__all__ = ["ChainOptions", "Console", "explain_lines", "parser", "run_cohort", "run_demo", "show_status"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "ChainOptions": "run",
        "Console": "console",
        "explain_lines": "explain",
        "parser": "main",
        "run_cohort": "run",
        "run_demo": "run",
        "show_status": "status",
    },
)
