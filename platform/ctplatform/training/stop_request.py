"""From a notice that machines go away to workers that stop after their step: SIGTERM, and nodes that Ray drains.

SIGTERM reaches the driver; a file in the workspace carries it to the workers, whatever machines they are on.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ctplatform.errors import StageError
from ctplatform.storage.layout import stop_request
from ctplatform.storage.workspace import Workspace

logger = logging.getLogger(__name__)
#: Seconds between two looks for the file.
FILE_S = 1.0
#: Seconds between two looks for drained nodes, which is a message of every worker.
DRAINING_S = 5.0


class StopRequest:
    """A context of the driver in which the first SIGTERM stops a run; the second ends the process as it would have.

    Only the main thread of a process can receive signals; elsewhere the context does nothing.

    Attributes:
        received: whether SIGTERM came.
    """

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.workspace, self.parts = workspace, stop_request(run)
        self.received = False
        self._came, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write, name="stop-request", daemon=True)
        self._previous: Any = None

    def __enter__(self) -> StopRequest:
        self.workspace.delete(*self.parts)
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._ended.set()
            self._came.set()
            self._thread.join()
        self.workspace.delete(*self.parts)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            signal.signal(signal.SIGTERM, self._previous)
            signal.raise_signal(signal.SIGTERM)
        self.received = True
        self._came.set()

    def _write(self) -> None:
        self._came.wait()
        if not self._ended.is_set():
            self.workspace.write_json({"requested": time.time()}, *self.parts)


class StopWatch:
    """Threads of a worker that notice a stop request, or the notice that a node of the run is about to go.

    Args:
        workspace: holds the run.
        run: its name.
        rank: rank 0 looks for the file; all ranks look for drained nodes, together.

    Attributes:
        requested: whether the worker is to stop after its step; cheap to call.
    """

    def __init__(self, workspace: Workspace, run: str, *, rank: int) -> None:
        self.workspace, self.parts = workspace, stop_request(run)
        self._stop, self._closed = threading.Event(), threading.Event()
        self.requested = self._stop.is_set
        looks = [(self._draining, DRAINING_S), *([(self._file, FILE_S)] if rank == 0 else [])]
        for look in looks:
            threading.Thread(target=self._watch, args=look, name="stop-watch", daemon=True).start()

    def close(self) -> None:
        """End the threads at their next look."""
        self._closed.set()

    def _watch(self, look: Callable[[], bool], every_s: float) -> None:
        while not self._closed.wait(every_s):
            try:
                if look():
                    self._stop.set()
                    return
            except StageError as error:  # the store failed; the next look may succeed
                logger.info("%s", error)

    def _file(self) -> bool:
        return self.workspace.exists(*self.parts)

    def _draining(self) -> bool:
        """Whether a node of this run is drained; a barrier of all workers, which call it equally often."""
        import ray.train

        notice = getattr(ray.train, "get_preemption_info", None)  # not in all supported versions
        if notice is None:
            self._closed.set()
            return False
        return notice() is not None
