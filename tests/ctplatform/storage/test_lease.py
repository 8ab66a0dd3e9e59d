"""One process at a time: the second is told which and since when; stale leases are taken on request only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace

import psutil
import pytest

from ctplatform.errors import StageError
from ctplatform.storage import layout, lease
from ctplatform.storage.lease import Holder, Lease
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.objectstore import ObjectStore

FAR = Holder("other", "far-away", 4711, "elsewhere", 0.0, since=1.7e9, beat=0.0)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "ws")


def held_by(workspace, holder):
    workspace.write_json(asdict(holder), *layout.lease())


def test_the_second_process_is_told_who_has_it_and_since_when(workspace):
    with Lease(workspace) as first:
        with pytest.raises(
            StageError, match=rf"in use by process {os.getpid()} on \S+ since 20\d\d-"
        ) as caught:
            Lease(workspace, take_over=True).__enter__()
        assert caught.value.code == "in-use"
        assert socket.gethostname() in str(caught.value)
        with Lease(workspace, "other-run"):
            pass
        assert workspace.read_json(*layout.lease())["token"] == first.holder.token
    assert not workspace.exists(*layout.lease()), "released at the end"
    with Lease(workspace):
        pass


def test_a_stale_lease_is_taken_on_request_only(workspace):
    held_by(workspace, replace(FAR, beat=time.time() - 2 * lease.STALE_S))
    with pytest.raises(
        StageError, match=r"far-away since 2023-11-14 .* no sign of life for 2 min.*--take-over"
    ):
        Lease(workspace).__enter__()
    with Lease(workspace, take_over=True):
        assert workspace.read_json(*layout.lease())["pid"] == os.getpid()


def test_a_lease_in_use_is_not_taken_even_on_request(workspace):
    held_by(workspace, replace(FAR, beat=time.time()))
    with pytest.raises(StageError, match="process 4711 on far-away"):
        Lease(workspace, take_over=True).__enter__()


def test_a_process_of_this_machine_that_was_killed_holds_nothing(workspace):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    born = psutil.Process(child.pid).create_time()
    mine = Lease(workspace).holder
    held_by(workspace, replace(mine, token="child", pid=child.pid, born=born))
    with pytest.raises(StageError, match=f"process {child.pid}"):
        Lease(workspace).__enter__()
    child.kill()
    child.wait()
    with Lease(workspace):
        pass


def test_a_cut_lease_is_one_of_an_unknown_holder(workspace):
    workspace.write_bytes(b'{"token": "', *layout.lease())
    with pytest.raises(StageError, match="unknown host"):
        Lease(workspace).__enter__()
    with Lease(workspace, take_over=True):
        pass


def test_it_is_renewed_and_its_loss_interrupts(workspace, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    mine = Lease(workspace)

    def work():
        end = time.monotonic() + 300
        while workspace.read_json(*layout.lease())["beat"] == mine.holder.beat:
            assert time.monotonic() < end
            time.sleep(0.01)
        while True:  # again and again: a renewal may fall between
            held_by(workspace, FAR)
            assert time.monotonic() < end
            time.sleep(0.02)

    usual = signal.signal(signal.SIGINT, lambda number, frame: None)  # as libraries replace it
    try:
        with pytest.raises(KeyboardInterrupt), mine:
            work()
    finally:
        signal.signal(signal.SIGINT, usual)
    assert mine.lost
    assert workspace.read_json(*layout.lease())["token"] == "other", "the other's lease is left alone"


def test_only_one_of_many_that_start_together_gets_it(workspace):
    code = (
        "import sys, time\n"
        "from ctplatform.errors import StageError\n"
        "from ctplatform.storage.lease import Lease\n"
        "from ctplatform.storage.workspace import Workspace\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    with Lease(Workspace(sys.argv[1])):\n"
        "        print('mine', flush=True)\n"
        "        sys.stdin.readline()\n"
        "except StageError:\n"
        "    print('theirs', flush=True)\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, workspace.uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    words = [process.stdout.readline().strip() for process in started]
    for process in started:
        process.communicate("\n")
    assert sorted(words) == ["mine", "theirs", "theirs"]


def test_on_an_object_store(monkeypatch):
    monkeypatch.setattr(lease, "SETTLE_S", 0.0)
    server = ObjectStore()
    try:
        workspace = Workspace(server.uri("ws"))
        with Lease(workspace):
            assert workspace.read_json(*layout.lease())["pid"] == os.getpid()
            with pytest.raises(StageError, match="in use by process"):
                Lease(workspace).__enter__()
        assert not workspace.exists(*layout.lease())
    finally:
        server.close()
