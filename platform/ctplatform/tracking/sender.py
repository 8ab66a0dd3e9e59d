"""Takes what a run shows to a server, in a thread: a slow or absent server costs no step and stops nothing."""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)
GOODBYE_S = 60.0


class Courier(ABC, Generic[T]):
    """What could not be sent is sent with what follows.

    Args:
        name: of the thread.
        refused: logged once, when the server does not take something.
        what: goes on all the same, for that line.
        lost: logged at the end, if something is still there.
    """

    def __init__(self, *, name: str, refused: str, what: str, lost: str) -> None:
        self._refused, self._what, self._lost = refused, what, lost
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._pending: list[T] = []
        self._warned = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @abstractmethod
    def _send(self, *, ended: bool) -> None:
        """Send what is pending and take it off; with `ended` say goodbye. Called in the thread; may raise anything."""

    def close(self) -> None:
        """Wait a while for what is left, then mark the run as finished."""
        self._queue.put(None)
        self._thread.join(GOODBYE_S)
        if self._pending or self._thread.is_alive():
            logger.warning("%s", self._lost)

    def _work(self) -> None:
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
            ) as error:  # whatever the server's client and its transports raise: the run goes on
                if not self._warned:
                    self._warned = True
                    name = type(error).__name__
                    logger.warning("%s (%s); %s goes on and tries again", self._refused, name, self._what)
