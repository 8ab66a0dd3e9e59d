"""What the kill tests kill: a driver alone, and nodes of a small cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping

import psutil

from tests.cluster.processes import Command, alive
from tests.conftest import ROOT


def kill_alone(command: Command) -> None:
    """The driver by SIGKILL; what of its Ray has not ended with it after a while is killed too."""
    tree = command.tree()
    command.process.kill()
    command.process.wait()
    end = time.monotonic() + 20
    while any(map(alive, tree)) and time.monotonic() < end:
        time.sleep(0.1)
    for process in filter(alive, tree):
        process.kill()


class Nodes:
    """A head without CPUs and two nodes with one each (`two_nodes`), to be killed and added to.

    Args:
        env: of all its processes.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.two_nodes"],
            env=dict(env),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.address = self.process.stdout.readline().strip()

    def tell(self, word: str) -> None:
        """ "kill", "drain" or "add"; returns when it is done."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "done"

    def tree(self) -> list[psutil.Process]:
        """All its processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        """All of it, gently at first."""
        tree = self.tree()
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for process in psutil.wait_procs(tree, timeout=10)[1]:
            process.kill()
