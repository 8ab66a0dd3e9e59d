"""The small fixture world: one atlas without images, and (on request) one phantom cohort and one local Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers that Ray starts import what pytest's `pythonpath` gives this process.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "platform"), str(ROOT), os.environ.get("PYTHONPATH", "")])
for folder in (str(ROOT), str(ROOT / "platform")):
    if folder not in sys.path:
        sys.path.insert(0, folder)


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
    from ctplatform.config import RayConfig
    from ctplatform.session import ray_session

    with ray_session(RayConfig(num_cpus=2)):
        yield
