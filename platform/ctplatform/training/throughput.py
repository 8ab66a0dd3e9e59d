"""How fast training goes, and what share of a step is spent on waiting for data.

Measured from one logged line to the next, so that a feed that falls behind shows at once. Not counted: the first batch,
which nothing could have prepared, and what is done between steps (checkpoints, probes).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """A stopwatch of the training loop; one rank's."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._first = True
        self._waited_before = 0.0
        self._reset(waited_s=0.0)

    def step(self, patches: int, *, waited_s: float) -> None:
        """A step ended.

        Args:
            patches: anchors of it, over all ranks.
            waited_s: how long this rank's feed has been waited for so far, all in all.
        """
        if self._first:
            self._aside_s += waited_s
            self._waited_before = waited_s
            self._first = False
        self._patches += patches
        self._waited_s = waited_s

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens herein is no part of any step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._aside_s += time.perf_counter() - start

    def lap(self) -> tuple[float, float]:
        """(patches a second, share of the time spent on waiting for data) since the last call."""
        elapsed = max(time.perf_counter() - self._started - self._aside_s, 1e-9)
        rate, share = self._patches / elapsed, (self._waited_s - self._waited_before) / elapsed
        self._reset(waited_s=self._waited_s)
        return rate, min(1.0, share)

    @property
    def seconds(self) -> float:
        """Since this process began to train, everything included."""
        return time.perf_counter() - self._begun

    def _reset(self, *, waited_s: float) -> None:
        self._started, self._aside_s, self._patches = time.perf_counter(), 0.0, 0
        self._waited_before = self._waited_s = waited_s
