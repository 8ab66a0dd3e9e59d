"""What the platform uses of Ray's private parts, all of it here: why, and what happens where a release moves it.

`tests/ctplatform/compute/test_ray_internals.py` fails when one of them moves; until then the fallback holds.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A number of Ray Data's execution that no option or environment variable sets.

    Attributes:
        module: below `ray.data._internal.execution`.
        owner: class of the module that holds the number; empty: the module does.
        name: of the number.
    """

    module: str
    owner: str
    name: str

    def holder(self) -> Any:
        """The module or class with the number; None where this version of Ray has none."""
        try:
            holder = import_module(f"ray.data._internal.execution.{self.module}")
            holder = getattr(holder, self.owner) if self.owner else holder
        except (ImportError, AttributeError):
            return None
        return holder if hasattr(holder, self.name) else None

    @contextmanager
    def changed(self, value: float) -> Iterator[None]:
        """Another value for the duration of the block. Fallback: Ray's own, which is slower and otherwise the same."""
        holder = self.holder()
        if holder is None:
            yield
            return
        before = getattr(holder, self.name)
        setattr(holder, self.name, value)
        try:
            yield
        finally:
            setattr(holder, self.name, before)


#: Seconds between two looks of Ray Data's executor for tasks that have ended. Its own 0.1 s leaves a core idle after
#: each scan, for about a tenth of the time that a scan takes.
TASK_POLLING = Setting("streaming_executor_state", "", "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S")
#: Seconds for which Ray Data's resource manager keeps its count of the cluster's CPUs. Its own 1 s means one task at a
#: time in the first second of an execution, whatever CPUs there are, as the count starts at none.
CPU_COUNTING = Setting("resource_manager", "ResourceManager", "GLOBAL_LIMITS_UPDATE_INTERVAL_S")

#: Loggers of Ray's modules whose messages at every start or submission are of no use to a user: that authentication is
#: on, which files are uploaded. Fallback: the messages appear.
SESSION_LOGGERS = {"ray._private.authentication": logging.ERROR}
SUBMISSION_LOGGERS = {
    "ray._private.runtime_env.packaging": logging.WARNING,
    "ray.dashboard.modules.dashboard_sdk": logging.WARNING,
    "ray._private.runtime_env.working_dir": logging.ERROR,
    "ray.dashboard.modules.job.sdk": logging.ERROR,
}

#: The address that Ray's state API asks, and one that never answers: the port of the discard protocol, RFC 863.
STATE_API_VARIABLE = "RAY_API_SERVER_ADDRESS"
NOBODY = "http://127.0.0.1:9"

_WORKER = "ray._private.worker"
_TRAIN_CONSTANTS = "ray.train.v2._internal.constants"
#: Node type in the status of a cluster without an autoscaler.
_UNMANAGED = re.compile(r"node_[0-9a-f]+")


def set_levels(loggers: dict[str, int]) -> None:
    """Set the levels of loggers, given by name."""
    for name, level in loggers.items():
        logging.getLogger(name).setLevel(level)


def dashboard_address() -> str | None:
    """HOST:PORT of the dashboard of the cluster that this process is connected to; None where it has none.

    Ray returns it from `ray.init` only, which other code may have called. Fallback: `ray.init` once more.
    """
    try:
        address = import_module(_WORKER).get_dashboard_url()
    except (ImportError, AttributeError):
        address = _connected().dashboard_url
    return address or None


def session_folder() -> Path | None:
    """The folder of Ray's session on this node, with its logs; None in a process that is connected from elsewhere.

    Ray returns it from `ray.init` only, which other code may have called. Fallback: `ray.init` once more.
    """
    try:
        node = import_module(_WORKER).global_worker.node
        folder = node and node.get_session_dir_path()
    except (ImportError, AttributeError):
        folder = _connected().address_info.get("session_dir")
    return Path(folder) if folder else None


@contextmanager
def own_cluster() -> Iterator[None]:
    """Ray's state API, and that of a training begun in this block, asks the cluster that this process is connected to.
    A process that is connected to none is left as it is: a training without workers needs no cluster.

    By itself it asks the one of the variable below or, on a machine with several, that which `ray start` made last; and
    without a dashboard, whoever listens at the port of one. Ray Train ends a training that is not found there.

    The variable is public; that a driver's is passed to Ray Train's controller, which passes it to what it starts, is
    not. Fallback: training asks as before.
    """
    import ray

    if not ray.is_initialized():
        yield
        return
    try:
        passed = import_module(_TRAIN_CONSTANTS).ENV_VARS_TO_PROPAGATE
    except (ImportError, AttributeError):
        passed = set()
    name, address = STATE_API_VARIABLE, dashboard_address()
    before, added = os.environ.get(name), {name} - passed
    os.environ[name] = f"http://{address}" if address else NOBODY
    passed.update(added)
    try:
        yield
    finally:
        passed.difference_update(added)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def autoscaler_configured() -> bool:
    """Whether an autoscaler can add nodes to the cluster that this process is connected to.

    Ray has no public answer. Version 2 of its autoscaler runs only where it was configured; version 1 also writes a
    status for clusters that it does not manage, with one type a node. Fallback: yes, so that a run waits for nodes.
    """
    try:
        if import_module("ray.autoscaler.v2.utils").is_autoscaler_v2(fetch_from_server=True):
            return True
        status = import_module("ray.experimental.internal_kv")._internal_kv_get("__autoscaling_status")
        types = json.loads(status)["autoscaler_report"]["active_nodes"]
    except Exception:
        return True
    return not types or any(not _UNMANAGED.fullmatch(name) for name in types)


def _connected() -> Any:
    """The context of this process's connection, as `ray.init` returned it. A second call connects nothing, but sets
    the level of Ray's logger and a handler for SIGTERM, which are put back."""
    import ray

    level, handler = logging.getLogger("ray").level, signal.getsignal(signal.SIGTERM)
    try:
        return ray.init(ignore_reinit_error=True, logging_level=logging.WARNING, log_to_driver=False)
    finally:
        logging.getLogger("ray").setLevel(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
