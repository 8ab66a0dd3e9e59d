"""A sweep whose driver is killed by SIGKILL, in its search and among its trials, and run again.

Real processes. What was committed is not done again, and the tables are those of a sweep that nobody disturbed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from ctplatform.storage.workspace import Workspace
from tests.cluster.processes import environment
from tests.conftest import ROOT
from tests.ctplatform.evaluation_world import RUN, build

pytestmark = pytest.mark.cluster

DRIVER = """
import sys
import pandas as pd
from ctplatform.config.cluster import RayConfig
from ctplatform.config.loader import validate
from ctplatform.compute.session import ray_session
from ctplatform.evaluation.sweep import sweep
from ctplatform.storage.workspace import Workspace
recipe = validate({
    "pretrain": {"encoder": {"experts": 1}},
    "sweep": {
        "tasks": ["emphysema_extent", "survival"],
        "initialisations": ["drasclr", "density", "scratch"],
        "fractions": [0.5, 1.0],
        "seeds": 1,
        "bootstrap": 200,
        "max_concurrent": 2,
        "scratch": {"max_steps": 4, "locations": 1, "pool": 1, "subjects_per_batch": 4},
        # Nothing is stopped early: what is chosen then does not depend on who was faster.
        "search": {"configurations": 3, "grace": 1.0},
    },
})
workspace = Workspace(sys.argv[1])
with ray_session(RayConfig(num_cpus=2)):
    print(sweep(workspace, pd.read_csv(sys.argv[2]), recipe, run="run"), flush=True)
"""
TRIALS, SEARCHES = 12, 2  # half of the labels leave nobody to validate on


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("token"))


class Driver:
    """The sweep in a process of its own."""

    def __init__(self, folder: Path, env: dict) -> None:
        self.workspace = Workspace(folder)
        self.log = folder.with_name(f"{folder.name}-{time.time_ns()}.log")
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder), str(folder.with_suffix(".csv"))],
            env=env,
            cwd=ROOT,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> str:
        assert self.process.wait(900) == 0, self.log.read_text()[-3000:]
        return self.log.read_text()

    def kill_when(self, condition: Callable[[], bool]) -> None:
        """SIGKILL to the driver in the middle of its work; then to what of its Ray outlives it."""
        end = time.monotonic() + 300
        while not condition():
            assert self.process.poll() is None, "it ended too early: " + self.log.read_text()[-2000:]
            assert time.monotonic() < end, "waited in vain: " + self.log.read_text()[-2000:]
            time.sleep(0.002)
        tree = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for process in psutil.wait_procs(tree, timeout=10)[1]:
            process.kill()


def committed(workspace: Workspace, kind: str) -> dict[str, int]:
    infos = workspace.infos("evaluation", RUN, kind)
    return {i.base_name: i.mtime_ns for i in infos if i.is_file and not i.base_name.startswith(".")}


def tables(workspace: Workspace) -> dict[str, pd.DataFrame]:
    found = {}
    for name in ("results", "predictions", "summary", "comparisons", "savings", "details"):
        table = workspace.read_table("evaluation", RUN, f"{name}.parquet").to_pandas()
        if name == "details":
            table = table[table["name"] != "seconds"].reset_index(drop=True)
        found[name] = table.drop(columns="seconds", errors="ignore")
    return found


def world(folder: Path) -> Path:
    _, cohort = build(folder, subjects=30)
    cohort.to_csv(folder.with_suffix(".csv"), index=False)
    return folder


def test_a_killed_sweep_goes_on_and_comes_out_the_same(env, tmp_path):
    undisturbed, folder = world(tmp_path / "undisturbed"), world(tmp_path / "killed")
    assert f"{TRIALS} trials" in Driver(undisturbed, env).wait()
    workspace = Workspace(folder)

    Driver(folder, env).kill_when(lambda: len(committed(workspace, "searches")) >= 1)
    searched = committed(workspace, "searches")
    assert 1 <= len(searched) < SEARCHES, "in the middle of the search"
    assert not committed(workspace, "trials")

    Driver(folder, env).kill_when(lambda: len(committed(workspace, "trials")) >= 3)
    tried = committed(workspace, "trials")
    assert 3 <= len(tried) < TRIALS, "in the middle of the trials"
    searches = committed(workspace, "searches")
    assert len(searches) == SEARCHES
    assert {name: searches[name] for name in searched} == searched, "no search is done again"

    text = Driver(folder, env).wait()
    assert f"{TRIALS} trials, {len(tried)} done before" in text
    after = committed(workspace, "trials")
    assert {name: after[name] for name in tried} == tried, "no trial is done again"
    assert committed(workspace, "searches") == searches
    expected = tables(Workspace(undisturbed))
    for name, table in tables(workspace).items():
        pd.testing.assert_frame_equal(table, expected[name])
    shown = workspace.folders("evaluation", RUN, "tensorboard")
    assert len([name for name in shown if name != "search"]) == TRIALS, (
        "each is on TensorBoard, killed or not"
    )
