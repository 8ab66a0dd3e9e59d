"""`python -m drasclr`: the command line of the platform.

The method imports nothing of the platform (`ctplatform`), which builds on it. This file is the one exception: the
command is named after the project, so that `python -m drasclr` has to find it. The import happens at call time, and
where only the method is installed the message says so.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable


def command_line() -> Callable[[], object]:
    """The function behind the `drasclr` command.

    Raises:
        ModuleNotFoundError: the platform is not installed.
    """
    cli = importlib.import_module("ctplatform.cli")
    main = getattr(cli, "main", None)
    if not callable(main):  # `cli` is a package, and the function lies in its module `main`
        main = importlib.import_module("ctplatform.cli.main").main
    function: Callable[[], object] = main
    return function


def run() -> int:
    """Run the command line; its exit status."""
    try:
        main = command_line()
    except ModuleNotFoundError as error:
        if error.name != "ctplatform":
            raise
        print(
            "drasclr: the command line is part of the platform (package ctplatform), which is not installed here; "
            "install the whole project, or use the method as a library: help(drasclr)",
            file=sys.stderr,
        )
        return 1
    status = main()
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(run())
