"""Resumed is uninterrupted: `drasclr pretrain` with a worker, the driver or a node killed by SIGKILL at a random step.

Real processes throughout: Ray Train's own workers, controller and nodes. What counts is the curve that is left in the
workspace: every step once, each with the loss of the undisturbed run. Two workers add gradients up in one
order, so a run that keeps its two is that run to the last digit; where their number changed, sums are taken in another
order, and losses of about 3 agree to 1e-5 (measured: 1e-6 after 48 steps).
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ctplatform.storage.layout import CARD_FILE, PRETRAIN, PROGRESS_FILE
from ctplatform.storage.workspace import Workspace
from ctplatform.training.checkpoints import Checkpoints
from ctplatform.training.runs import read_metrics, run_name
from tests.cluster.kills import Nodes, kill_alone
from tests.cluster.processes import Command, alive, environment
from tests.ctplatform.training_world import SETTINGS, recipe_with, training_workspace, workers

pytestmark = pytest.mark.cluster

STEPS, EVERY = 60, 5
LONGER = (f"pretrain.max_steps={STEPS}", "pretrain.epochs=9", f"pretrain.checkpoint_every={EVERY}")


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Losses of two workers whom nobody disturbs."""
    workspace = training_workspace(tmp_path_factory.mktemp("undisturbed"))
    workers(workspace.uri, tmp_path_factory.mktemp("pair"), ("whole", LONGER, None))
    return read_metrics(workspace, "whole")


@pytest.fixture
def workspace(tmp_path):
    return training_workspace(tmp_path / "ws")


class Run(Command):
    """`drasclr pretrain` in a process of its own."""

    def __init__(
        self,
        workspace: Workspace,
        folder: Path,
        env: dict[str, str],
        *overrides: str,
        more: tuple[str, ...] = (),
    ) -> None:
        sets = [part for item in (*SETTINGS, *LONGER, *overrides) for part in ("--set", item)]
        command = [sys.executable, "-m", "ctplatform", "pretrain", "--recipe", "demo", *sets]
        log = folder / f"log-{time.time_ns()}"
        super().__init__([*command, "--workspace", workspace.uri, *more], env, log)
        self.workspace = workspace
        self.name = run_name(workspace, recipe_with(*LONGER))

    def progress(self) -> dict[str, Any]:
        """The progress that it last wrote."""
        if not self.workspace.exists(PRETRAIN, self.name, PROGRESS_FILE):
            return {"step": 0, "workers": 0}
        return self.workspace.read_json(PRETRAIN, self.name, PROGRESS_FILE)

    def step(self) -> int:
        """The last step of its progress."""
        return int(self.progress()["step"])

    def reach(self, step: int) -> int:
        """The last step, once it is at least this one."""
        return self.until(lambda: self.step() if self.step() >= step else 0, seconds=300)

    def trainers(self, nodes: Nodes | None = None) -> list[psutil.Process]:
        """Ray Train's workers, in the Ray of its own or on these nodes."""
        found = []
        for process in nodes.tree() if nodes else self.tree():
            try:
                if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def start(workspace, tmp_path, env):
    """Starts a run; none outlives its test."""
    made: list[Run] = []

    def start(*overrides: str, more: tuple[str, ...] = ()) -> Run:
        made.append(Run(workspace, tmp_path, env, *overrides, more=more))
        return made[-1]

    yield start
    for run in made:
        if run.process.poll() is None:
            run.end(gently=False)


def somewhere(low: int, high: int) -> int:
    """A random step; printed where the test fails."""
    step = random.randint(low, high)
    print(f"killed at step {step} or soon after")
    return step


def uninterrupted(
    workspace: Workspace, name: str, undisturbed: list[dict], *, tolerance: float
) -> list[dict]:
    """The curve holds every step once, with the losses of the undisturbed run."""
    lines = read_metrics(workspace, name)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for measure in ("loss", "local", "global", "lr"):
        mine, whole = ([line[measure] for line in found] for found in (lines, undisturbed))
        np.testing.assert_allclose(mine, whole, rtol=0, atol=tolerance, err_msg=measure)
    assert workspace.exists(PRETRAIN, name, CARD_FILE)
    assert [
        c.step for c in Checkpoints(workspace, PRETRAIN, name, config=recipe_with().pretrain).committed()
    ] == [
        STEPS - EVERY,
        STEPS,
    ]
    return lines


def test_a_killed_worker_is_replaced_within_the_run(workspace, start, undisturbed):
    run = start("ray.num_cpus=2")
    reached = run.reach(somewhere(6, STEPS - 15))
    victim = random.choice(run.trainers())
    started = time.monotonic()
    victim.kill()
    run.until(lambda: len(run.trainers()) == 2 and victim.pid not in {p.pid for p in run.trainers()})
    run.until(lambda: run.step() > reached)
    print(f"a killed worker cost {time.monotonic() - started:.0f} s")
    run.wait()
    uninterrupted(workspace, run.name, undisturbed, tolerance=0)


def test_a_killed_driver_is_gone_on_with(workspace, start, undisturbed):
    run = start("ray.num_cpus=2")
    run.reach(somewhere(6, STEPS - 15))
    kill_alone(run)
    left = Checkpoints(workspace, PRETRAIN, run.name, config=recipe_with().pretrain).newest()
    assert left is not None
    assert EVERY <= left.step < STEPS
    assert not workspace.exists(PRETRAIN, run.name, CARD_FILE)
    again = start("ray.num_cpus=2")
    again.wait()
    uninterrupted(workspace, run.name, undisturbed, tolerance=0)


def test_nodes_come_and_go_while_it_trains(workspace, start, undisturbed, env):
    """Two workers, then one after a node was killed, then two again: the same batches, the same losses."""
    nodes = Nodes(env)
    try:
        elastic = ("pretrain.min_workers=1", "pretrain.resize_every_s=2")
        run = start(*elastic, more=("--address", nodes.address))
        run.reach(somewhere(6, 10))
        started = time.monotonic()
        nodes.tell("kill")
        first = run.until(lambda: run.progress()["workers"] == 1 and run.step(), seconds=200)
        print(f"a killed node cost {time.monotonic() - started:.0f} s")
        # Held, once its own checkpoint is there, until there are two: a fast machine might train to the end before.
        run.reach(first + EVERY + 1)
        (alone,) = run.trainers(nodes)
        alone.suspend()
        nodes.tell("add")
        run.until(lambda: not alive(alone), seconds=120)
        run.wait()
    finally:
        nodes.end()
    lines = uninterrupted(workspace, run.name, undisturbed, tolerance=1e-5)
    counts = [line["workers"] for line in lines]
    changes = [count for count, before in zip(counts, [0, *counts]) if count != before]
    assert changes == [2, 1, 2], counts
