"""Two builds of the project side by side: the same work in a process of each, in turn, in CPU time.

A benchmark imports `Build` and hands it the path of a checkout and of a worker: a script that runs with either
checkout on its path. The worker calls `serve` (from this file, which needs neither build) with a function a case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parents[2]


class Build:
    """A process with a checkout of the project on its path.

    Args:
        checkout: root of the source tree.
        worker: a script that calls `serve`.
        arguments: of the script.
    """

    def __init__(self, checkout: Path, worker: Path, *arguments: str) -> None:
        if not (checkout / "drasclr").is_dir():
            raise SystemExit(f"{checkout} holds no checkout: git worktree add --detach {checkout} COMMIT")
        paths = os.pathsep.join([str(checkout / "platform"), str(checkout)])
        threads = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(worker), *arguments],
            env=os.environ | threads | {"PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, case: str) -> dict[str, Any]:
        """What the worker says of a case, its CPU `seconds` among it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args} ended with code {self.process.wait()} at {case}")
        result: dict[str, Any] = json.loads(answer)
        return result

    def __enter__(self) -> Build:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def fastest(builds: Mapping[str, Build], case: str, *, repeats: int) -> dict[str, dict[str, Any]]:
    """The fastest run of a case in each build, after one that warms up; builds take turns."""
    best: dict[str, dict[str, Any]] = {}
    for repeat in range(repeats + 1):
        for name, build in builds.items():
            result = build.run(case)
            if repeat and (name not in best or result["seconds"] < best[name]["seconds"]):
                best[name] = result
    return best


def peak_mib() -> float:
    """As `peak.peak_mib`, which the other build may lack: this file alone is loaded there."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def serve(work: Callable[[str], dict[str, Any]]) -> None:
    """Answer each line on stdin with what `work` gives for it and the CPU seconds that it took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        start = time.process_time()
        result = work(line.strip())
        answers.write(json.dumps({"seconds": time.process_time() - start, **result}) + "\n")
        answers.flush()
