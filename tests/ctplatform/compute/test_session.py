"""A session connects where Ray is not connected, and leaves an existing connection as it was."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import ray
import ray.data

from ctplatform.compute.session import LOCAL, SILENCING, _no_session, ray_session, silence
from ctplatform.config.cluster import RayConfig

FIRST = """
import os, ray
from ctplatform.compute.session import LOCAL, SILENCING, ray_session
from ctplatform.config.cluster import RayConfig
for name in ("RAY_ADDRESS", *LOCAL):
    os.environ.pop(name, None)
os.environ["LOG_NAME_UPDATE_INTERVAL_S"] = "45"
with ray_session(RayConfig(num_cpus=1, include_dashboard=False)):
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 1
    assert all(name in os.environ for name in SILENCING | LOCAL)
    assert os.environ["LOG_NAME_UPDATE_INTERVAL_S"] == "45"

    @ray.remote
    def package():
        import ctplatform
        return ctplatform.__file__

    print(ray.get(package.remote()))
assert not ray.is_initialized()
# A cluster that is connected to next has nodes that are drained.
assert [name for name in LOCAL if name in os.environ] == ["LOG_NAME_UPDATE_INTERVAL_S"]
"""


def test_a_local_cluster_lasts_as_long_as_the_session_and_imports_what_the_driver_imports():
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    import ctplatform

    assert done.stdout.strip() == ctplatform.__file__
    assert "Started a local Ray" not in done.stdout + done.stderr


def test_names_of_settings_are_those_of_ray():
    """Ray ignores what it does not find: a setting that was renamed would be lost without an error."""
    from ray._private import log_monitor
    from ray.train.v2._internal import constants as train

    *of_logs, of_train = LOCAL
    assert of_train == train.ENABLE_PREEMPTION_WATCHER_ENV_VAR
    for name in of_logs:
        assert hasattr(log_monitor, name), name


def test_an_existing_connection_is_used_and_stays(ray_local):
    before = ray.get_runtime_context().get_job_id()
    with ray_session(RayConfig(num_cpus=7)):
        assert ray.get_runtime_context().get_job_id() == before
        assert ray.cluster_resources()["CPU"] == 2
    assert ray.is_initialized()


def test_a_session_that_does_not_come_up_is_one_sentence():
    slow = Exception("The current node timed out during startup.\nThis could happen because ...\n")
    assert str(_no_session(None, slow)) == (
        "Ray did not start on this machine: The current node timed out during startup. Wait until the machine is less "
        "busy or free some of its memory, then run it again; Ray's logs are below /tmp/ray/session_latest/logs."
    )
    assert str(_no_session("10.0.0.7:6379", ConnectionError())).startswith(
        "no Ray cluster answers at 10.0.0.7:6379: ConnectionError. Check the address"
    )


def test_settings_of_the_user_are_kept(ray_local, monkeypatch):
    name = next(iter(SILENCING))
    monkeypatch.setenv(name, "the user's")
    with ray_session(RayConfig()):
        assert os.environ[name] == "the user's"


def test_silence_leaves_errors(ray_local):
    silence()
    assert ray.data.DataContext.get_current().enable_progress_bars is False
    for name in ("ray.data", "ray.train", "ray.tune"):
        assert logging.getLogger(name).getEffectiveLevel() == logging.ERROR
