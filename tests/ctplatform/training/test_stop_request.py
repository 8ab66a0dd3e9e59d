"""SIGTERM of the driver becomes a file that workers see; afterwards all is as before."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from ctplatform.storage.layout import stop_request
from ctplatform.storage.workspace import Workspace
from ctplatform.training import stop_request as module
from ctplatform.training.stop_request import StopRequest, StopWatch
from tests.cluster.processes import until


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def test_a_signal_reaches_the_workers(workspace, monkeypatch):
    monkeypatch.setattr(module, "FILE_S", 0.02)
    came = []
    monkeypatch.setattr(StopWatch, "_draining", lambda _: False)
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("before"))
    try:
        workspace.write_json({}, *stop_request("run"))
        with StopRequest(workspace, "run") as request:
            assert not workspace.exists(*stop_request("run")), "one left by a killed process does not count"
            watch = StopWatch(workspace, "run", rank=0)
            assert not watch.requested()
            os.kill(os.getpid(), signal.SIGTERM)
            until(watch.requested, seconds=60, pause=0.01)
            assert request.received
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: came, seconds=60, pause=0.01)
            watch.close()
        assert not workspace.exists(*stop_request("run"))
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: len(came) == 2, seconds=60, pause=0.01)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_cannot_receive_signals_and_change_nothing(workspace):
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with StopRequest(workspace, "run") as request:
            assert not request.received

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
