"""Connection to Ray: to a running cluster where an address is given, else to a local one, started here."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctplatform.compute.ray_internals import SESSION_LOGGERS, set_levels
from ctplatform.config.cluster import RayConfig

#: Set before Ray is imported: no output of Ray's own, as the console shows the progress of each stage.
SILENCING = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connect for the duration of the block. A connection that is there already is used, and stays afterwards.

    Args:
        config: address of a cluster (else RAY_ADDRESS), or CPUs and dashboard of a local one.
    """
    for name, value in SILENCING.items():
        os.environ.setdefault(name, value)
    set_levels(SESSION_LOGGERS)
    import ray

    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address:
        ray.init(address=address, runtime_env=_runtime_env(), **options)
    else:
        ray.init(
            address="local", num_cpus=config.num_cpus, include_dashboard=config.include_dashboard, **options
        )
    silence()
    try:
        yield
    finally:
        ray.shutdown()


def _runtime_env() -> dict[str, Any]:
    """The environment in which workers import what the driver imports: nothing for installed packages; for a source
    tree that was uploaded with a job PYTHONPATH, relative to the working directory of every worker."""
    spec = importlib.util.find_spec("ctplatform")
    origin = Path(spec.origin).resolve() if spec and spec.origin else None
    if origin and origin.is_relative_to(Path.cwd()):
        return {"env_vars": {"PYTHONPATH": os.pathsep.join(("platform", "."))}}
    return {}


def silence() -> None:
    """Turn off Ray's progress bars and messages in this process; its errors stay."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
