"""Ray's private parts are where they are looked for, and without them everything still works."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import ray

from ctplatform.compute import ray_internals
from ctplatform.compute.ray_internals import CPU_COUNTING, STATE_API_VARIABLE, TASK_POLLING, Setting


@pytest.mark.parametrize("setting", [TASK_POLLING, CPU_COUNTING], ids=lambda setting: setting.name)
def test_the_numbers_are_where_they_are_looked_for(setting):
    holder = setting.holder()
    before = getattr(holder, setting.name)
    with setting.changed(before / 4):
        assert getattr(holder, setting.name) == before / 4
    assert getattr(holder, setting.name) == before
    with pytest.raises(KeyError), setting.changed(before / 4):
        raise KeyError
    assert getattr(holder, setting.name) == before


def test_ray_data_reads_the_numbers_where_they_are_changed():
    """In its source: a number that it copies elsewhere at import would be changed to no effect."""
    for setting, use in (
        (TASK_POLLING, f"timeout={TASK_POLLING.name}"),
        (CPU_COUNTING, f"self.{CPU_COUNTING.name}"),
    ):
        spec = find_spec(f"ray.data._internal.execution.{setting.module}")
        assert use in Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "setting",
    [
        Setting("no_such_module", "", "X"),
        Setting("resource_manager", "NoSuchClass", "X"),
        Setting("resource_manager", "ResourceManager", "NO_LONGER_THERE"),
    ],
)
def test_a_number_that_moved_is_left_alone(setting):
    assert setting.holder() is None
    done = False
    with setting.changed(1.0):
        done = True
        assert setting.holder() is None
    assert done


@pytest.mark.parametrize("name", [*ray_internals.SESSION_LOGGERS, *ray_internals.SUBMISSION_LOGGERS])
def test_loggers_are_those_of_modules_that_exist(name):
    assert find_spec(name) is not None


def test_levels_are_set():
    ray_internals.set_levels({"ctplatform.test_of_levels": logging.ERROR})
    assert logging.getLogger("ctplatform.test_of_levels").level == logging.ERROR


@pytest.mark.parametrize("private", [True, False])
def test_dashboard_and_session_folder_are_those_of_ray_init(ray_local, monkeypatch, private):
    level, handler = logging.getLogger("ray").level, signal.getsignal(signal.SIGTERM)
    if not private:
        monkeypatch.setattr(ray_internals, "_WORKER", "ray._private.no_such_module")
    address, folder = ray_internals.dashboard_address(), ray_internals.session_folder()
    assert (logging.getLogger("ray").level, signal.getsignal(signal.SIGTERM)) == (level, handler)
    context = ray_internals._connected()
    assert address == (context.dashboard_url or None)
    assert folder == Path(context.address_info["session_dir"])
    assert (folder / "logs").is_dir()
    assert ray.is_initialized()


def test_what_is_used_of_the_private_worker_is_there(ray_local):
    """Without the fallback, which would hide that they moved."""
    from ray._private import worker

    assert worker.global_worker.node.get_session_dir_path() == str(ray_internals.session_folder())
    assert (worker.get_dashboard_url() or None) == ray_internals.dashboard_address()


@pytest.mark.parametrize("before", [None, "http://127.0.0.1:1"])
def test_what_training_starts_asks_its_own_cluster(ray_local, monkeypatch, before):
    """As Ray Train passes the driver's environment on, and as its state API reads it."""
    from ray.dashboard.utils import get_address_for_submission_client
    from ray.train.v2._internal.constants import get_env_vars_to_propagate

    monkeypatch.delenv(STATE_API_VARIABLE, raising=False)
    if before:
        monkeypatch.setenv(STATE_API_VARIABLE, before)
    for address in ("127.0.0.1:8300", None):
        monkeypatch.setattr(ray_internals, "dashboard_address", lambda address=address: address)
        with ray_internals.own_cluster():
            passed = get_env_vars_to_propagate()
            asked = get_address_for_submission_client(None)
        assert (
            passed[STATE_API_VARIABLE] == asked == (f"http://{address}" if address else ray_internals.NOBODY)
        )
        assert STATE_API_VARIABLE not in get_env_vars_to_propagate()
        assert os.environ.get(STATE_API_VARIABLE) == before


def test_a_process_without_a_cluster_is_left_as_it_is():
    """In a process of its own, which no other test has connected: `pretrain` with no workers, called from Python."""
    code = """
import os
import ray
from ctplatform.compute.ray_internals import own_cluster
before = dict(os.environ)
with own_cluster():
    assert dict(os.environ) == before
assert not ray.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training_asks_as_before_where_ray_moved_it(ray_local, monkeypatch):
    monkeypatch.delenv(STATE_API_VARIABLE, raising=False)
    monkeypatch.setattr(ray_internals, "_TRAIN_CONSTANTS", "ray.no_such_module")
    with ray_internals.own_cluster():
        assert os.environ[STATE_API_VARIABLE].startswith("http://")
    assert STATE_API_VARIABLE not in os.environ
