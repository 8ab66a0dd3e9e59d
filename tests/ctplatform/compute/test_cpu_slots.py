"""CPU slots of a node: never more processes than slots inside, and none lost with a process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

from ctplatform.compute.cpu_slots import cpu_slot


def _work(folder: str, count: int, rounds: int, pipe: Connection) -> None:
    """The largest number of processes that were inside with this one, by files that each leaves while it is."""
    inside, most = Path(folder) / "inside", 0
    for _ in range(rounds):
        with cpu_slot(Path(folder) / "slots", count):
            mine = inside / str(os.getpid())
            mine.touch()
            most = max(most, len(list(inside.iterdir())))
            time.sleep(0.01)
            most = max(most, len(list(inside.iterdir())))
            mine.unlink()
    pipe.send(most)


def _hold(folder: str, pipe: Connection) -> None:
    with cpu_slot(Path(folder), 1):
        pipe.send("in")
        time.sleep(600)


def test_never_more_than_there_are_slots(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(4)]
    workers = [context.Process(target=_work, args=(str(tmp_path), 2, 8, theirs)) for _, theirs in pipes]
    for worker in workers:
        worker.start()
    most = []
    for ours, _ in pipes:
        assert ours.poll(120)
        most.append(ours.recv())
    for worker in workers:
        worker.join(60)
    assert max(most) <= 2
    with cpu_slot(tmp_path / "slots", 2), cpu_slot(tmp_path / "slots", 2):
        pass  # two at a time there may be


def test_a_killed_process_leaves_its_slot(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path), theirs))
    worker.start()
    assert ours.poll(60)
    assert worker.pid
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(60)
    with cpu_slot(tmp_path, 1):
        pass


def test_without_a_limit_nothing_is_taken(tmp_path: Path) -> None:
    with cpu_slot(tmp_path / "slots", 0), cpu_slot(tmp_path / "slots", 0):
        assert not (tmp_path / "slots").exists()
