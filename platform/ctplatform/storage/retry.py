"""Retries for object stores that are slow, or fail for a while.

The clients of pyarrow repeat a request a few times within seconds; an overloaded store takes longer to recover.
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


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: not where something is missing, forbidden or the request is wrong."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | IsADirectoryError):
        return False
    if isinstance(error, NotADirectoryError | pa.ArrowInvalid):
        return False
    return isinstance(error, OSError) and not _FINAL.search(str(error))


def with_retries(action: Callable[[], T], *, what: str, attempts: int | None = None) -> T:
    """The action's result, tried up to `attempts` times with growing pauses.

    Args:
        action: must be safe to repeat.
        what: name for the log; without scan paths, which may contain a patient's name.
        attempts: `ATTEMPTS` if None.

    Raises:
        OSError: that of the last attempt, or the first one that is not transient.
    """
    attempts = attempts or ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except OSError as error:
            if attempt == attempts or not is_transient(error):
                raise
            wait = FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
            logger.warning(
                "%s: the store answers %s; trying again in %.1f s (%d of %d)",
                what, short_reason(error), wait, attempt + 1, attempts,
            )  # fmt: skip
            time.sleep(wait)
    raise AssertionError


def short_reason(error: BaseException) -> str:
    """A store's error in a few words: its code and status, without the path."""
    found = ["".join(groups) for groups in _WORDS.findall(str(error))]
    return ", ".join(dict.fromkeys(w if not w.isdigit() else f"HTTP {w}" for w in found)) or "with an error"
