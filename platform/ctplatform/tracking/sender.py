"""Sending tracked values to a server in a thread: a slow or absent server delays no step and stops no run."""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)
#: How long `close` waits for what has not been sent.
CLOSE_TIMEOUT_S = 60.0


class Sender(ABC, Generic[T]):
    """A queue of items and the thread that sends them; an item that fails is sent again with those that follow.

    Args:
        name: of the thread.
        refused: warning, logged once, when sending fails.
        work: what continues after that warning: "training", "the sweep".
        lost: warning at the end if items are left.
    """

    def __init__(self, *, name: str, refused: str, work: str, lost: str) -> None:
        self._refused, self._work, self._lost = refused, work, lost
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._pending: list[T] = []
        self._warned = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    @abstractmethod
    def _send(self, *, ended: bool) -> None:
        """Send `_pending`, removing what was sent; with `ended` mark the run as finished.

        Called in the thread; may raise anything.
        """

    def close(self) -> None:
        """Send what is left and mark the run as finished; waits at most `CLOSE_TIMEOUT_S`."""
        self._queue.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._pending or self._thread.is_alive():
            logger.warning("%s", self._lost)

    def _loop(self) -> None:
        ended = False
        while not ended:
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get())
            ended = None in items
            self._pending += [item for item in items if item is not None]
            try:
                self._send(ended=ended)
            except (
                Exception
            ) as error:  # whatever the server's client and its transports raise: the run continues
                if not self._warned:
                    self._warned = True
                    name = type(error).__name__
                    logger.warning(
                        "%s (%s); %s continues, and sending is tried again", self._refused, name, self._work
                    )
