"""Real processes for the cluster tests: commands in trees of their own, Ray heads with a token, nodes that come and go.

Ports are free ones, a session's folder is its own, and what ends is what was started here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray

from ctplatform.compute.session import LOCAL
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
#: Identity of the head among the fake nodes of Ray's own provider.
HEAD_ID = "f" * 51 + "00000"
TOKEN = "0123456789abcdef" * 4


def environment(folder: Path) -> dict[str, str]:
    """What every process gets: this tree, one thread, and a token of its own for Ray."""
    token = folder / "token"
    token.write_text(TOKEN)
    own = {"RAY_ADDRESS", *LOCAL}  # of a session in this process
    kept = {k: v for k, v in os.environ.items() if k not in own}
    return kept | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }


def free_port(among: Iterable[int] | None = None) -> int:
    """One that nobody listens on now, outside the range that Ray gives to its workers.

    Args:
        among: ports to choose from; None: the system's choice.
    """
    for wanted in itertools.repeat(0) if among is None else among:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", wanted))
            port = int(probe.getsockname()[1])
            if not 10002 <= port <= 19999:
                return port
    raise OSError("no port is free")


def alive(process: psutil.Process) -> bool:
    """Not ended; one that nobody reaps has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(
    condition: Callable[[], Any],
    *,
    seconds: float = 480,
    pause: float = 0.05,
    detail: Callable[[], str] = lambda: "",
) -> Any:
    """The condition's first true value.

    Raises:
        AssertionError: it stayed false; with the end of `detail`.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(pause)
    raise AssertionError("waited in vain: " + detail()[-12000:])


class Command:
    """A command in a process group of its own, its output in a file."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, **options: Any) -> None:
        self.log = log
        self.process = subprocess.Popen(
            list(command),
            env=dict(env),
            cwd=ROOT,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, **options},
        )

    def text(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    def tree(self) -> list[psutil.Process]:
        """All processes below it."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait(self, *, seconds: float = 600, status: int | None = 0) -> str:
        """Its output, once it has ended with this status."""
        found = self.process.wait(seconds)
        assert status is None or found == status, f"status {found}: {self.text()[-4000:]}"
        return self.text()

    def until(
        self, condition: Callable[[], Any], *, seconds: float = 480, detail: Callable[[], str] | None = None
    ) -> Any:
        """The condition's first true value while the command runs; `detail` tells more if it does not come."""

        def look() -> Any:
            found = condition()
            assert found or self.process.poll() is None, "it ended too early: " + self.text()[-3000:]
            return found

        def both() -> str:
            return self.text()[-3000:] + ("\n" + detail()[-9000:] if detail else "")

        return until(look, seconds=seconds, detail=both)

    def end(self, *, gently: bool = True) -> None:
        """It and all below it; by SIGKILL where it is not gentle or does not end."""
        tree = self.tree()
        if self.process.poll() is None and gently:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        else:
            for process in tree:
                _kill(process)
            self.process.kill()
        self.process.wait()
        for process in psutil.wait_procs(tree, timeout=10)[1]:
            _kill(process)


def kill_node(raylet: psutil.Process) -> None:
    """Like a machine that loses its power: raylet, agents and workers at once, by SIGKILL."""
    for process in [raylet, *raylet.children(recursive=True)]:
        _kill(process)


class Head:
    """A Ray head with its dashboard; with node types, Ray's own autoscaler starts and ends workers on this machine."""

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str],
        *,
        cpus: int = 2,
        store_bytes: int = 300_000_000,
        node_types: Mapping[str, Mapping[str, Any]] | None = None,
        idle_s: float = 8.0,
        dashboard: int | None = None,
    ) -> None:
        # A job brings its code with it; the monitor finds the provider of nodes.
        self.env = {**env, "PYTHONPATH": str(ROOT / "tests" / "cluster") if node_types else ""}
        # The fake nodes find the head by this machine's address; alone it stays on loopback.
        host = ray.util.get_node_ip_address() if node_types else "127.0.0.1"
        dashboard, port, metrics = dashboard or free_port(), free_port(), free_port()
        self.address, self.gcs = f"http://127.0.0.1:{dashboard}", f"{host}:{port}"
        self.metrics = f"http://{host}:{metrics}/metrics"
        self.temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths must stay short
        command = [
            *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--node-ip-address={host}", f"--port={port}", f"--temp-dir={self.temporary}"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={metrics}"),
            *(f"--num-cpus={cpus}", f"--object-store-memory={store_bytes}"),
        ]
        if node_types:
            config = folder / "autoscaling.json"
            config.write_text(json.dumps(_autoscaling(self.gcs, cpus, node_types, idle_s)))
            command.append(f"--autoscaling-config={config}")
            self.env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
            self.env |= {"RAY_enable_autoscaler_v2": "1"}
            identity = {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
        else:
            identity = {}
        self.command = Command(command, self.env | identity, folder / f"head-{port}.log")
        try:
            self.command.until(lambda: "Ray runtime started" in self.command.text(), seconds=120)
        except AssertionError:
            self.stop()
            raise

    def get(self, path: str) -> Any:
        """The dashboard's answer."""
        token = Path(self.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes that are alive, the head left out."""
        found = self.get("/api/v0/nodes?detail=1")["data"]["result"]["result"]
        return [node for node in found if node["state"] == "ALIVE" and not node["is_head_node"]]

    def scaling(self) -> str:
        """What the autoscaler did so far, a line a decision."""
        log = self.temporary / "session_latest" / "logs" / "monitor.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(line for line in lines if "WARNING util.py" not in line)

    def is_counted(self, raylet: psutil.Process) -> bool:
        """Whether the autoscaler has seen this node alive."""
        name = raylet.environ()["RAY_CLOUD_INSTANCE_ID"]
        return f"ray node {name} is RUNNING" in self.scaling()

    def submit(self, log: Path, *arguments: str) -> Command:
        """`drasclr submit` of the chain with these arguments."""
        command = [sys.executable, "jobs/submit.py", "--address", self.address, "--", *arguments]
        return Command(command, self.env, log)

    def workers(self, title: str) -> list[tuple[psutil.Process, psutil.Process]]:
        """(process, raylet of its node) of the workers whose title, which says what they are doing, matches."""
        found = []
        for process in self.command.tree():
            if re.match(title, _line(process)):
                raylet = _raylet(process)
                if raylet:
                    found.append((process, raylet))
        return found

    def resources(self, raylet: psutil.Process) -> dict[str, float]:
        """Resources of a node."""
        (words,) = re.findall(r"--static_resource_list=(\S*)", _line(raylet)) or [""]
        parts = words.split(",")
        return {name: float(amount) for name, amount in zip(parts[::2], parts[1::2])}

    def stop(self, *, gently: bool = True) -> None:
        """End it with everything below it."""
        self.command.end(gently=gently)
        shutil.rmtree(self.temporary, ignore_errors=True)


def _autoscaling(
    gcs: str, cpus: int, node_types: Mapping[str, Mapping[str, Any]], idle_s: float
) -> dict[str, Any]:
    """As `ray up` would write it, with Ray's provider of fake nodes as an external one: processes on this machine."""
    lists = (
        *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
        *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
        *("rsync_exclude", "rsync_filter"),
    )
    head = {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    types = {name: {"node_config": {}, "min_workers": 0, **node} for name, node in node_types.items()}
    return {
        "cluster_name": "fake",
        "max_workers": sum(node["max_workers"] for node in types.values()),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": "fakenodes.FakeNodes",
            "gcs_address": gcs,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
        },
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists},
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, **types},
    }


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _raylet(process: psutil.Process) -> psutil.Process | None:
    try:
        return next((parent for parent in process.parents() if parent.name() == "raylet"), None)
    except psutil.Error:
        return None


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
