"""Throughput of training: patches a second, and the share of a step's time spent on waiting for data.

Measured from one logged line to the next, so that a feed that falls behind shows at once. Not counted: the first batch,
which nothing could have prefetched, and work between steps (checkpoints, probes).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Throughput:
    """The stopwatch of one rank's training loop."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._first = True
        self._waited_before = 0.0
        self._reset(waited_s=0.0)

    def step(self, patches: int, *, waited_s: float) -> None:
        """Count a step that has ended.

        Args:
            patches: its anchors, over all ranks.
            waited_s: seconds that this rank has waited for its feed since it began to train.
        """
        if self._first:
            self._excluded_s += waited_s
            self._waited_before = waited_s
            self._first = False
        self._patches += patches
        self._waited_s = waited_s

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """A context whose duration counts as part of no step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._excluded_s += time.perf_counter() - start

    def lap(self) -> tuple[float, float]:
        """(patches a second, share of the time spent on waiting for data) since the last lap."""
        elapsed = max(time.perf_counter() - self._started - self._excluded_s, 1e-9)
        rate, share = self._patches / elapsed, (self._waited_s - self._waited_before) / elapsed
        self._reset(waited_s=self._waited_s)
        return rate, min(1.0, share)

    @property
    def seconds(self) -> float:
        """Wall time since this object was created, excluded time counted too."""
        return time.perf_counter() - self._begun

    def _reset(self, *, waited_s: float) -> None:
        self._started, self._excluded_s, self._patches = time.perf_counter(), 0.0, 0
        self._waited_before = self._waited_s = waited_s
