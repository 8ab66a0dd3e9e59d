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
        self._used: dict[tuple[int, float], float] = {}
        self._before = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cpu-time", daemon=True)

    def _look(self) -> None:
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            try:
                times = process.cpu_times()
                self._used[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue
        self.seconds = sum(self._used.values()) - self._before

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._look()

    def __enter__(self) -> CpuTime:
        self._look()
        self._before = self.seconds
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        self._stop.set()
        self._thread.join()
