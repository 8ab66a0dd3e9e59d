"""Too little of something: the workspace's disk is full, the object store nearly, a node's disk beyond its threshold.

Each is survived with the same results, or stops with a remedy and the same command completes it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from ctplatform.dataset import ledger
from ctplatform.storage.layout import PATCHES, PRETRAIN, WEIGHTS_FILE
from ctplatform.storage.workspace import Workspace
from tests.cluster.processes import Command, environment

pytestmark = pytest.mark.cluster

RECIPE = (
    "phantom.subjects=6",
    "phantom.spacing_mm=3.0",
    "atlas.step=60",
    "atlas.max_scans=2",
    "split.test_fraction=0.34",
    "pretrain.max_steps=4",
    "pretrain.checkpoint_every=2",
    "pretrain.scans_per_batch=4",
    "pretrain.locations_per_batch=2",
    "pretrain.queue_size=16",
    "pretrain.num_workers=1",
    "pretrain.max_failures=0",
    "embed.encoders=[drasclr]",
)
SETS = [part for item in RECIPE for part in ("--set", item)]
#: The command in a process whose Ray has an object store of 80 MB, 72 MB taken, and no disk that it would use.
NEARLY_FULL = """
import sys, numpy, ray
ray.init(num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False,
         _system_config={"local_fs_capacity_threshold": 0.01})
held = [ray.put(numpy.ones(9_000_000, numpy.uint8)) for _ in range(8)]
from ctplatform.cli.main import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory) -> dict[str, str]:
    return environment(tmp_path_factory.mktemp("token"))


def chain(env: dict[str, str], log: Path, base: Path, workspace: Path) -> Command:
    cohort = base / "phantom" / "cohort.csv"
    arguments = ["run", "--recipe", "demo", *SETS, "--set", "ray.num_cpus=2", "--cohort", str(cohort)]
    command = [sys.executable, "-m", "ctplatform", *arguments]
    return Command([*command, "--workspace", str(workspace), "--to", "embed"], env, log)


@pytest.fixture(scope="module")
def base(env, tmp_path_factory) -> Path:
    """The cohort, and what a run that lacks nothing makes of it. Read only."""
    folder = tmp_path_factory.mktemp("base")
    arguments = ["demo", "--recipe", "demo", *SETS, "--set", "ray.num_cpus=2", "--to", "embed"]
    command = [sys.executable, "-m", "ctplatform", *arguments, "--workspace", str(folder)]
    Command(command, env, folder.with_name("base.log")).wait()
    return folder


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False
    ).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def grow(folder: Path, megabytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(folder)], check=True)


def assert_same(workspace: Workspace, base: Workspace) -> None:
    names = [name for name in ledger.SCHEMA.names if name not in ledger.TIMES]
    ours, theirs = (
        ledger.read_ledger(place, columns=names).set_index("scan_id") for place in (workspace, base)
    )
    pd.testing.assert_frame_equal(ours, theirs)
    assert workspace.files(PATCHES) == base.files(PATCHES)
    for name in base.files(PATCHES):
        assert workspace.read_bytes(PATCHES, name) == base.read_bytes(PATCHES, name)
    (run,) = base.folders(PRETRAIN)
    assert workspace.folders(PRETRAIN) == [run]
    ours, theirs = (place.read_bytes(PRETRAIN, run, WEIGHTS_FILE) for place in (workspace, base))
    assert ours == theirs
    ours, theirs = (
        place.read_table("embeddings", run, "patients-drasclr.parquet") for place in (workspace, base)
    )
    assert ours.equals(theirs)


def test_a_full_disk_stops_each_stage_clearly_and_costs_nothing(base, env, small_disk):
    """Too small for the patches, then for a checkpoint, then large enough: three times the same command."""
    workspace = Workspace(small_disk / "ws")
    text = chain(env, small_disk.with_name("1.log"), base, workspace.root).wait(status=1)
    assert "No space left on device" in text
    assert "Free space there" in text
    assert "Traceback" not in text
    done = ledger.read_ledger(workspace)
    assert 0 < len(done) < 6
    for scan in done["scan_id"]:
        name = f"{scan}.parquet"
        assert workspace.read_bytes(PATCHES, name) == Workspace(base).read_bytes(PATCHES, name)
    assert not list(small_disk.rglob(".tmp-*")), "nothing half written is in the way"

    grow(small_disk, 30)
    text = chain(env, small_disk.with_name("2.log"), base, workspace.root).wait(status=1)
    assert f"{len(done)} done before" in text
    assert "[pretrain] started" in text
    assert "No space left on device" in text
    assert "Free space there" in text
    assert "Traceback" not in text
    assert not list(small_disk.rglob(".tmp-*"))

    grow(small_disk, 1000)
    text = chain(env, small_disk.with_name("3.log"), base, workspace.root).wait()
    assert "[prepare] unchanged" in text
    assert_same(workspace, Workspace(base))


def test_an_object_store_that_is_nearly_full_with_nowhere_to_spill_is_enough(base, env, tmp_path):
    """No volume and no patch passes through it: the chain needs next to nothing of it."""
    workspace = Workspace(tmp_path / "ws")
    cohort = base / "phantom" / "cohort.csv"
    arguments = ["run", "--recipe", "demo", *SETS, "--cohort", str(cohort), "--workspace", workspace.root]
    Command([sys.executable, "-c", NEARLY_FULL, *arguments, "--to", "embed"], env, tmp_path / "log").wait()
    assert_same(workspace, Workspace(base))
