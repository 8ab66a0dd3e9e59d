"""The small fixture world: one atlas without images, and (on request) one phantom cohort and one local Ray."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers that Ray starts import what pytest's `pythonpath` gives this process.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT / "platform"), str(ROOT), os.environ.get("PYTHONPATH", "")]
)
# For the object store of the tests on loopback; Ray's workers inherit them.
for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    os.environ.setdefault(name, "test")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
# Series of public buckets, likewise.
_cache = tempfile.mkdtemp(prefix="drasclr-test-cache-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["DRASCLR_CACHE"] = _cache
for folder in (str(ROOT), str(ROOT / "platform")):
    if folder not in sys.path:
        sys.path.insert(0, folder)


#: Files with minutes of work in few tests, the longest first.
LONGEST = (
    "ctplatform/cli/test_main.py",
    "ctplatform/training/test_pretrain.py",
    "ctplatform/evaluation/test_sweep.py",
    "ctplatform/evaluation/dense/test_kept_maps.py",
    "ctplatform/pipeline/test_assessment.py",
    "ctplatform/evaluation/test_search.py",
    "ctplatform/evaluation/test_kept_networks.py",
    "ctplatform/training/test_online_probe.py",
    "ctplatform/evaluation/test_kept_heads.py",
    "ctplatform/evaluation/dense/test_problem.py",
    "ctplatform/evaluation/dense/test_assembly.py",
    "cluster/test_pretrain_kills.py",
    "cluster/test_autoscaling.py",
    "cluster/test_sweep_kills.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: started last, they would run in one process while the others have ended.

    `make` turns off the order of pytest-xdist, which is by the number of tests.
    """
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(autouse=True)
def one_locale() -> Iterator[None]:
    """A test may call ITK directly; what it leaves would reach the tests that follow in this process."""
    from ctplatform.imaging.files import same_locale

    with same_locale():
        yield


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """The folder of real CTs; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("DRASCLR_REAL_CT", ROOT.parent / "shared" / "ct"))
    if not folder.is_dir():
        pytest.skip(f"no real CTs at {folder}; set DRASCLR_REAL_CT")
    return folder


@pytest.fixture(scope="session")
def lungs_ZYX() -> np.ndarray:
    """Two ellipsoids, right 50 and left 100, on a 4 mm grid."""
    z, y, x = np.ogrid[:70, :60, :80]
    right = ((z - 35) / 30) ** 2 + ((y - 30) / 20) ** 2 + ((x - 22) / 15) ** 2 < 1
    left = ((z - 35) / 30) ** 2 + ((y - 30) / 20) ** 2 + ((x - 58) / 15) ** 2 < 1
    return (right * 50 + left * 100).astype(np.uint8)


@pytest.fixture(scope="session")
def small_atlas(lungs_ZYX: np.ndarray):
    """A few dozen locations with patches of 8 voxels: enough for blocks and halos."""
    from drasclr.atlas import Atlas

    return Atlas.from_template(
        lungs_ZYX,
        spacing=(4.0, 4.0, 4.0),
        origin=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        patch_size=8,
        step=10,
        neighbours=2,
        block_size=12,
    )


@pytest.fixture(scope="session")
def ray_local():
    """One local Ray for all tests of a session."""
    from ctplatform.compute.session import ray_session
    from ctplatform.config.cluster import RayConfig

    with ray_session(RayConfig(num_cpus=2)):
        yield


SMALL = (
    "phantom.subjects=8",
    "phantom.spacing_mm=3.0",
    "phantom.dicom_every=4",
    "atlas.step=60",
    "atlas.max_scans=4",
    "atlas.block_size=12",
    "split.test_fraction=0.4",
    "pretrain.beta=1",  # neighbours too
    "pretrain.scans_per_batch=4",
    "pretrain.locations_per_batch=2",
    "pretrain.queue_size=16",
    "pretrain.max_steps=6",
    "pretrain.checkpoint_every=2",
    "pretrain.log_every=1",
    "embed.num_workers=1",
    "embed.pooling=mean",  # weights are used without the stage embed, which keeps the statistics of locations
    "sweep.fractions=[0.5,1.0]",
    "sweep.seeds=2",
    "sweep.bootstrap=200",
    "sweep.max_concurrent=1",
    "sweep.scratch.epochs=1",
    "sweep.scratch.locations=2",
)


@pytest.fixture(scope="session")
def small_recipe():
    """The demo's recipe, cut down to seconds."""
    from ctplatform.config.loader import load_recipe

    return load_recipe("demo", SMALL)


def made_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder for all test processes, read only: the first that needs it makes it, the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the folder of a worker lies in that of the whole run
        root = root.parent
    folder, done = root / name, root / f"{name}.made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def prepared(ray_local, small_recipe, tmp_path_factory):
    """(workspace, cohort): a phantom cohort with atlas, shards, ledger and split. Read only."""
    from ctplatform.dataset.splits import ensure_split
    from ctplatform.phantom.cohort import made_cohort, phantom_cohort
    from ctplatform.preparation.atlas import atlas
    from ctplatform.preparation.prepare import prepare
    from ctplatform.storage.workspace import Workspace

    def make(folder: Path) -> None:
        workspace = Workspace(folder)
        cohort = phantom_cohort(workspace, small_recipe.phantom)
        atlas(workspace, cohort, small_recipe)
        prepare(workspace, cohort, small_recipe)
        ensure_split(workspace, cohort, small_recipe)

    workspace = Workspace(made_once(tmp_path_factory, "prepared", make))
    return workspace, made_cohort(workspace, small_recipe.phantom)


#: Folders whose tests share costly fixtures, and so a test process; elsewhere each file is a group of its own.
TOGETHER = ("tests/ctplatform/evaluation/dense", "tests/ctplatform/report", "tests/ctplatform/pipeline")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile`, less the folders whose files stay together."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None
