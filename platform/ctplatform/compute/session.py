"""Connection to Ray: to a running cluster where an address is given, else to a local one, started here."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctplatform.compute.ray_internals import SESSION_LOGGERS, set_levels
from ctplatform.config.cluster import RayConfig
from ctplatform.errors import StageError

#: Where a local session listens: nothing outside of this machine needs it.
LOOPBACK = "127.0.0.1"

#: Set before Ray is imported: no output of Ray's own, as the console shows the progress of each stage.
SILENCING = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # verbose=0 of Ray Tune is silent in the older output only
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

#: Set before Ray is imported: seconds for which its node may take to come up; 30 are too few on a busy machine.
PATIENCE = {"RAY_raylet_start_wait_time_s": "120"}

#: Set while a local session lasts, so that nothing in it looks for what cannot come. The output of workers is not sent
#: to the driver: the log monitor would list and read their files ten times a second. The node is not drained: Ray Train
#: would start a process that looks.
LOCAL = {
    "LOG_NAME_UPDATE_INTERVAL_S": "86400",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",  # from this number of files on, the interval above counts
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connect for the duration of the block. A connection that is there already is used, and stays afterwards.

    Args:
        config: address of a cluster (else RAY_ADDRESS), or CPUs and dashboard of a local one.

    Raises:
        StageError: there is no cluster at the address, or no local one could be started.
    """
    for name, value in (SILENCING | PATIENCE).items():
        os.environ.setdefault(name, value)
    set_levels(SESSION_LOGGERS)
    import ray

    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    with _set({} if address else LOCAL):
        try:
            if address:
                ray.init(address=address, runtime_env=_runtime_env(), **options)
            else:
                ray.init(
                    address="local",
                    num_cpus=config.num_cpus,
                    include_dashboard=config.include_dashboard,
                    dashboard_host=LOOPBACK,
                    **options,
                )
        except Exception as error:  # of a node that does not come up, Ray raises just that
            raise _no_session(address, error) from error
        silence()
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the duration of the block, those that are set already left as they are."""
    own = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _no_session(address: str | None, error: Exception) -> StageError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if address:
        return StageError(
            f"no Ray cluster answers at {address}: {reason}",
            "Check the address, and that its head runs (`ray status`)",
            code="no-cluster",
        )
    return StageError(
        f"Ray did not start on this machine: {reason}",
        "Wait until the machine is less busy or free some of its memory, then run it again; Ray's logs are "
        "below /tmp/ray/session_latest/logs",
        code="no-ray",
    )


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
