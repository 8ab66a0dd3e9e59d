"""Exactly once: `drasclr prepare` with a worker, the driver or a node killed by SIGKILL in the middle of it.

Real processes throughout. Run again (or, where only a worker or a node died, in the same run), the result is row for
row and byte for byte that of the undisturbed run; finished scans keep the time stamp of their row.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import SimpleITK as sitk

from ctplatform.dataset import ledger
from ctplatform.storage.layout import ATLAS, PATCHES, SCANS
from ctplatform.storage.workspace import Workspace
from tests.cluster.kills import Nodes, kill_alone
from tests.cluster.processes import Command, environment
from tests.conftest import ROOT, SMALL

pytestmark = pytest.mark.cluster

SETS = [part for item in SMALL for part in ("--set", item)]
BASE = """
from tests.conftest import SMALL
from ctplatform.preparation.atlas import atlas
from ctplatform.config.cluster import RayConfig
from ctplatform.config.loader import load_recipe
from ctplatform.phantom.cohort import phantom_cohort
from ctplatform.preparation.prepare import prepare
from ctplatform.compute.session import ray_session
from ctplatform.storage.workspace import Workspace
import sys
workspace, recipe = Workspace(sys.argv[1]), load_recipe("demo", SMALL)
with ray_session(RayConfig(num_cpus=2)):
    cohort = phantom_cohort(workspace, recipe.phantom)
    atlas(workspace, cohort, recipe)
    prepare(workspace, cohort, recipe)
"""
# One scan, killed by its own hand at the chosen point.
ALONE = """
import json, os, signal, sys
from ctplatform.dataset import ledger
from ctplatform.config.loader import load_recipe
from ctplatform.preparation.scan import prepare_scan, process_scan
from ctplatform.storage.workspace import Workspace
folder, item, settings, point = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
def process(*arguments):
    found = process_scan(*arguments)
    if point == "shard":
        os.kill(os.getpid(), signal.SIGKILL)
    return found
if point == "row":
    ledger.write_row = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
prepare_scan(Workspace(folder), item, load_recipe("demo").prepare, config_hash=settings, process=process)
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="module")
def undisturbed(env, tmp_path_factory):
    """Atlas, cohort and the result of an undisturbed run. Read only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(
        [sys.executable, "-c", BASE, str(folder)], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Workspace(folder)


@pytest.fixture
def workspace(undisturbed, tmp_path):
    """An own workspace with the same atlas."""
    shutil.copytree(undisturbed.path(ATLAS), tmp_path / "ws" / ATLAS)
    return Workspace(tmp_path / "ws")


class Driver(Command):
    """`drasclr prepare` in a process of its own."""

    def __init__(self, undisturbed: Workspace, workspace: Workspace, env: dict, *more: str) -> None:
        command = [sys.executable, "-m", "ctplatform", "prepare", "--recipe", "demo", *SETS]
        command += ["--set", "ray.num_cpus=2", "--cohort", undisturbed.path("phantom", "table.csv")]
        table = pd.read_csv(undisturbed.path("phantom", "cohort.csv"))
        table.to_csv(undisturbed.path("phantom", "table.csv"), index=False)
        log = Path(workspace.root).with_name(f"log-{time.time_ns()}")
        super().__init__([*command, "--workspace", workspace.root, *more], env, log)


def rows_of(workspace: Workspace) -> pd.DataFrame:
    names = [name for name in ledger.SCHEMA.names if name not in ledger.TIMES]
    return ledger.read_ledger(workspace, columns=names).set_index("scan_id", drop=False)


def stamps(workspace: Workspace) -> dict[str, int]:
    rows = ledger.read_ledger(workspace, columns=["scan_id", "committed"])
    return dict(zip(rows["scan_id"], rows["committed"], strict=True))


def finished(workspace: Workspace) -> int:
    return len(workspace.files(SCANS, suffix=".1.parquet"))


def same_as(workspace: Workspace, undisturbed: Workspace) -> None:
    pd.testing.assert_frame_equal(rows_of(workspace), rows_of(undisturbed))
    assert workspace.files(PATCHES) == undisturbed.files(PATCHES)
    for name in undisturbed.files(PATCHES):
        assert workspace.read_bytes(PATCHES, name) == undisturbed.read_bytes(PATCHES, name)


def part_of(workspace: Workspace, undisturbed: Workspace) -> None:
    """What readers see in the middle is right as far as it goes."""
    rows, whole = rows_of(workspace), rows_of(undisturbed)
    pd.testing.assert_frame_equal(rows, whole.loc[rows.index])
    for scan in rows["scan_id"]:
        name = f"{scan}.parquet"
        assert workspace.read_bytes(PATCHES, name) == undisturbed.read_bytes(PATCHES, name)


def working(driver: Driver) -> list[psutil.Process]:
    """Ray workers that are at a scan."""
    found = []
    for process in driver.tree():
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Map"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_killed_worker_costs_nothing_but_time(undisturbed, workspace, env):
    driver = Driver(undisturbed, workspace, env)
    driver.until(lambda: finished(workspace) >= 1)
    for victim in driver.until(lambda: working(driver)):
        victim.kill()
    text = driver.wait()
    assert "8 new" in text
    same_as(workspace, undisturbed)


def test_a_killed_driver_is_resumed_by_the_next_run(undisturbed, workspace, env):
    driver = Driver(undisturbed, workspace, env)
    driver.until(lambda: finished(workspace) >= 2)
    kill_alone(driver)
    before = stamps(workspace)
    assert 2 <= len(before) < 8
    part_of(workspace, undisturbed)
    text = Driver(undisturbed, workspace, env).wait()
    assert f"{8 - len(before)} new" in text
    assert f"{len(before)} done before" in text
    same_as(workspace, undisturbed)
    assert {scan: stamps(workspace)[scan] for scan in before} == before, "finished scans are not done again"
    text = Driver(undisturbed, workspace, env).wait()
    assert "[prepare] unchanged" in text, "what is finished is not even looked at again"
    assert {scan: stamps(workspace)[scan] for scan in before} == before


def test_a_killed_node_is_replaced_by_the_rest(undisturbed, workspace, env):
    nodes = Nodes(env)
    try:
        driver = Driver(undisturbed, workspace, env, "--address", nodes.address)
        driver.until(lambda: finished(workspace) >= 2)
        before = stamps(workspace)
        nodes.tell("kill")
        assert len(stamps(workspace)) < 8, "in the middle"
        driver.wait()
    finally:
        nodes.end()
    same_as(workspace, undisturbed)
    assert {scan: stamps(workspace)[scan] for scan in before} == before


@pytest.mark.parametrize("renewed", [False, True], ids=["new", "renewed"])
@pytest.mark.parametrize("point", ["shard", "row"])
def test_a_scan_killed_between_shard_and_row_is_no_scan(undisturbed, tmp_path, env, point, renewed):
    """Its shard lies there, and no reader of the ledger opens it; the repeated task succeeds."""
    workspace = Workspace(tmp_path / "ws")
    folders = [ATLAS, SCANS, PATCHES] if renewed else [ATLAS]
    for folder in folders:
        shutil.copytree(undisturbed.path(folder), workspace.path(folder))
    table = pd.read_csv(undisturbed.path("phantom", "cohort.csv")).set_index("scan_id", drop=False)
    scan = sorted(table["scan_id"])[0]
    old = rows_of(undisturbed).loc[scan]
    item = {name: str(table.loc[scan, name]) for name in ("scan_id", "subject_id", "path")}
    item |= {
        "series_uid": "",
        "fingerprint": "new" if renewed else old["fingerprint"],
        "version": 1 + renewed,
    }
    item |= {"cause": "input" if renewed else "new", "old": ""}
    if renewed:
        names = ("subject_id", "code", "fingerprint", "atlas_hash", "config_hash")
        item["old"] = json.dumps({name: old[name] for name in names})

    def attempt(at: str) -> int:
        command = [sys.executable, "-c", ALONE, workspace.root, json.dumps(item), old["config_hash"], at]
        return subprocess.run(command, env=env, cwd=ROOT, check=False).returncode

    if not (renewed and point == "row"):  # there the first row written is the mark of the renewal
        assert attempt(point) == -signal.SIGKILL
        assert workspace.exists(PATCHES, f"{scan}.parquet")
        seen = rows_of(workspace).index if renewed else workspace.files(SCANS, suffix=".parquet")
        assert scan not in seen
        assert len(seen) == (7 if renewed else 0)
    assert attempt("never") == 0
    row = rows_of(workspace).loc[scan]
    assert row["version"] == item["version"]
    assert row["content_hash"] == old["content_hash"]
    name = f"{scan}.parquet"
    assert workspace.read_bytes(PATCHES, name) == undisturbed.read_bytes(PATCHES, name)


def test_a_scan_that_kills_its_workers_fails_alone(undisturbed, workspace, env):
    """A scan of 27 times the voxels holds its worker until the test kills it, as often as Ray tries again.

    One CPU and the last place: nothing else is at work then, and it starts when the scan before it is committed.
    """
    trap = Path(workspace.root).with_name("trap.nii")
    whole = pd.read_csv(undisturbed.path("phantom", "cohort.csv"))
    volume = next(path for path in whole["path"][2:] if path.endswith(".nii.gz"))
    sitk.WriteImage(sitk.Expand(sitk.ReadImage(volume), [3, 3, 3], sitk.sitkNearestNeighbor), str(trap))
    table = whole.head(2)
    table = table[["scan_id", "subject_id", "path", "series_uid"]]
    bad = pd.DataFrame([{"scan_id": "trap", "subject_id": "trap", "path": str(trap), "series_uid": ""}])
    path = Path(workspace.root).with_name("trap.csv")
    pd.concat([table, bad]).to_csv(path, index=False)
    driver = Driver(undisturbed, workspace, env, "--cohort", str(path), "--set", "ray.num_cpus=1")
    driver.until(lambda: finished(workspace) == 2)
    killed: set[int] = set()
    end = time.monotonic() + 200
    while driver.process.poll() is None and time.monotonic() < end:
        for process in working(driver):
            if process.pid not in killed and time.time() - process.create_time() > 1:
                killed.add(process.pid)
                process.kill()
        time.sleep(0.1)
    text = driver.wait()
    rows = rows_of(workspace)
    assert rows["state"].isin(["accepted", "flagged"]).sum() == 2
    assert rows.loc["trap", ["state", "code"]].tolist() == ["failed", "crashed"]
    assert "worker process died" in text
    assert len(killed) >= 2
