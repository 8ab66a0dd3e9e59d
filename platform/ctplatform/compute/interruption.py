"""Ctrl-C ends the command within seconds, whatever library it waits in, after it was recorded.

Ray's libraries put handlers of their own in place of Python's, which wait for a cluster that may not answer. Python
writes the number of every signal it handles to a pipe, whoever handles it; a thread reads that pipe.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

ENDS_WITHIN_S = 8.0
STATUS = 130

_callbacks: list[Callable[[], None]] = []
_seen = threading.Event()


def requested() -> bool:
    """Whether Ctrl-C was pressed since `ends_within` was entered."""
    return _seen.is_set()


@contextlib.contextmanager
def on_interrupt(record: Callable[[], None]) -> Iterator[None]:
    """Call `record` if the process is ended within the block because it did not react to Ctrl-C."""
    _callbacks.append(record)
    try:
        yield
    finally:
        _callbacks.remove(record)


@contextlib.contextmanager
def ends_within(seconds: float = ENDS_WITHIN_S, *, message: str = "") -> Iterator[None]:
    """End this process `seconds` after Ctrl-C if the block has not ended by then.

    Args:
        seconds: for the block to end by itself: to release Ray's session, for example.
        message: printed where the process is ended.
    """
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    _seen.clear()
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    ended = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(read, ended, seconds, message), daemon=True, name="ctrl-c"
    )
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(write)  # ends the thread
        if not _seen.is_set():
            watcher.join()


def _watch(read: int, ended: threading.Event, seconds: float, message: str) -> None:
    while data := os.read(read, 64):
        if signal.SIGINT in data:
            break
    os.close(read)
    if not data:
        return
    _seen.set()
    if ended.wait(seconds):
        return
    for record in reversed(_callbacks):
        try:
            record()
        except Exception:
            logger.exception("the record of the interruption")
    with contextlib.suppress(OSError):
        os.write(2, f"\n{message}\n".encode())
    os._exit(STATUS)
