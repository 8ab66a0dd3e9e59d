"""Connection to Ray: the cluster around us if there is one, else a small local one."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctplatform.config.cluster import RayConfig

# Before ray is imported anywhere: quiet, per-stage progress is ours to show.
QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connect for the duration of the block; what is already connected is used and left alone."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # Told at every start, and of no concern to who runs the chain: authentication is on, as it should be.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    import ray

    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    options: dict = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address:
        ray.init(address=address, runtime_env=_runtime_env(), **options)
    else:
        ray.init(
            address="local", num_cpus=config.num_cpus, include_dashboard=config.include_dashboard, **options
        )
    hush()
    try:
        yield
    finally:
        ray.shutdown()


def dashboard_address() -> str | None:
    """HOST:PORT of the Ray dashboard of the cluster that we are connected to; None where it has none."""
    from ray._private.worker import get_dashboard_url  # Ray has no public way to ask after ray.init

    return get_dashboard_url() or None


def _runtime_env() -> dict:
    """Workers must import what the driver imports. Installed packages are there; a source tree that was uploaded with a
    job is found through PYTHONPATH, relative to the working directory of every worker."""
    spec = importlib.util.find_spec("ctplatform")
    origin = Path(spec.origin).resolve() if spec and spec.origin else None
    if origin and origin.is_relative_to(Path.cwd()):
        return {"env_vars": {"PYTHONPATH": os.pathsep.join(("platform", "."))}}
    return {}


def hush() -> None:
    """Ray's own bars and messages off in this process; its errors stay."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
