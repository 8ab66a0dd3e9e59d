"""How many scans of a node compute at a time, where more tasks run on it than it has CPUs.

Tasks whose series comes from a public bucket wait for it without a CPU. So more of them are placed on a node than can
compute there, and each takes a slot once its series has arrived. Slots are files with locks (flock): those of a process
that dies are free again.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

_LOOK_EVERY_S = 0.01


@contextlib.contextmanager
def cpu_slot(folder: Path, count: int) -> Iterator[None]:
    """One of `count` slots, waited for; processes that name the same folder share them. Of 0, none is taken."""
    if not count:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Only the first in the queue looks for a free slot; the others sleep in the kernel.
    with (folder / "queue").open("wb") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)
        slot = _free_slot(folder, count)
    with slot:
        yield


def _free_slot(folder: Path, count: int) -> BinaryIO:
    while True:
        for number in range(count):
            file = (folder / str(number)).open("wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return file
        time.sleep(_LOOK_EVERY_S)


@lru_cache
def slots_of_this_node(cpus_a_scan: float) -> int:
    """Scans that Ray would let compute at a time on the node of this task if it had nothing else to do."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    cpus = next((node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["NodeID"] == own), 1.0)
    return max(1, int(cpus / cpus_a_scan + 1e-9))
