"""CPU time of this process and all that it started, Ray's workers among them."""

from __future__ import annotations

import threading

import psutil

EVERY_S = 2.0


class CpuTime:
    """Adds up while its body runs; what a process does in its last two seconds is missed.

    Attributes:
        seconds: CPU time, user and system, of all processes together.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._used: dict[int, float] = {}
        self._ended = 0.0
        self._before = 0.0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cpu-time", daemon=True)

    def look(self) -> None:
        """Bring `seconds` up to now."""
        with self._lock:
            me = psutil.Process()
            for process in (me, *me.children(recursive=True)):
                try:
                    times = process.cpu_times()
                    used = times.user + times.system
                except psutil.Error:
                    continue
                # A number may be given to a new process, which then starts at nothing.
                if used < self._used.get(process.pid, 0.0):
                    self._ended += self._used[process.pid]
                self._used[process.pid] = used
            self.seconds = self._ended + sum(self._used.values()) - self._before

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.look()

    def __enter__(self) -> CpuTime:
        self.look()
        self._before = self.seconds
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()
