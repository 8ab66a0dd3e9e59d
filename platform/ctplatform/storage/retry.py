"""Object stores that answer slowly, or with errors that pass: try again, say so, and give up with a clear message.

The clients of pyarrow already repeat a request a few times within seconds; an overloaded store needs more than that.
All actions are idempotent: a read, a listing, or the write of a whole object.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

T = TypeVar("T")
logger = logging.getLogger(__name__)

ATTEMPTS = 6
FIRST_WAIT_S = 1.0

_FINAL = re.compile(r"HTTP status 4(?!08|29)\d\d|ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE")
_WORDS = re.compile(
    r"AWS Error ([A-Z_0-9]+)|HTTP status (\d+)|(timed? ?out|timeout|connection|unavailable)", re.I
)


def passes(error: BaseException) -> bool:
    """Whether trying again may help: not where something is missing, forbidden or wrongly asked for."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | IsADirectoryError):
        return False
    if isinstance(error, NotADirectoryError | pa.ArrowInvalid):
        return False
    return isinstance(error, OSError) and not _FINAL.search(str(error))


def patiently(action: Callable[[], T], *, what: str, attempts: int | None = None) -> T:
    """The action's result, tried up to `attempts` times with growing pauses.

    Args:
        action: must be safe to repeat.
        what: named in the log; no path that may name a person.
        attempts: `ATTEMPTS` if None.

    Raises:
        OSError: the last one, when nothing helped; others at once, when they cannot pass.
    """
    attempts = attempts or ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except OSError as error:
            if attempt == attempts or not passes(error):
                raise
            wait = FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
            logger.warning(
                "%s: the store answers %s; trying again in %.1f s (%d of %d)",
                what, told(error), wait, attempt + 1, attempts,
            )  # fmt: skip
            time.sleep(wait)
    raise AssertionError


def told(error: BaseException) -> str:
    """What a store said, in a few words: its code and status, never a path."""
    found = ["".join(groups) for groups in _WORDS.findall(str(error))]
    return ", ".join(dict.fromkeys(w if not w.isdigit() else f"HTTP {w}" for w in found)) or "with an error"
