"""A limit of time for work that may hang in a library: its process ends, and the work is not begun again."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def time_limit(seconds: float, on_expiry: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """End this process if the block takes longer. Yields a function that begins the time anew.

    Nothing else ends a call of a library that does not return. Ray starts another worker for the next task.

    Args:
        seconds: from the beginning of the block, or the last restart.
        on_expiry: called first, in another thread; records what was not finished.
    """
    done = threading.Event()
    begun = time.monotonic()

    def restart() -> None:
        nonlocal begun
        begun = time.monotonic()

    def expire() -> None:
        while (left := begun + seconds - time.monotonic()) > 0:
            if done.wait(left):
                return
        try:
            on_expiry()
        except Exception:
            logger.exception("on_expiry")
        finally:
            os._exit(1)

    threading.Thread(target=expire, daemon=True, name="time-limit").start()
    try:
        yield restart
    finally:
        done.set()
