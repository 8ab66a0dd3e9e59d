"""A real Ray head with its dashboard on loopback; the demo as a submitted job, followed to its end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TINY = (
    "phantom.subjects=8",
    "phantom.spacing_mm=3.0",
    "atlas.step=60",
    "atlas.max_scans=3",
    "pretrain.max_steps=4",
    "pretrain.scans_per_batch=4",
    "embed.encoders=[drasclr]",
    "sweep.initialisations=[drasclr,density]",
    "sweep.tasks=[emphysema_extent]",
    "sweep.seeds=1",
    "sweep.fractions=[1.0]",
    "sweep.bootstrap=200",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Head:
    """One head node in its own process group, ended with all it started."""

    def __init__(self, folder: Path) -> None:
        self.dashboard, self.port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        token = folder / "token"
        token.write_text("0123456789abcdef" * 4)
        self.env = {
            **{k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self.log = folder / "head.log"
        self.temporary = Path(
            tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        )  # socket paths below it must stay short
        self.process = subprocess.Popen(
            [
                str(BIN / "ray"),
                "start",
                "--head",
                "--block",
                "--node-ip-address=127.0.0.1",
                f"--port={self.port}",
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={self.dashboard}",
                f"--dashboard-agent-listen-port={free_port()}",
                "--include-dashboard=true",
                "--num-cpus=2",
                "--object-store-memory=300000000",
                "--disable-usage-stats",
                f"--temp-dir={self.temporary}",
            ],
            env=self.env,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for _ in range(240):
            if "Ray runtime started" in self.log.read_text():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        raise RuntimeError(self.log.read_text()[-3000:])

    def stop(self) -> None:
        tree = (
            psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        )
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        _, left = psutil.wait_procs(tree, timeout=10)
        for process in left:
            process.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    head = Head(tmp_path_factory.mktemp("head"))
    yield head
    head.stop()


def submit(head: Head, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "jobs/submit.py", "--address", head.address, "--", *arguments]
    return subprocess.run(command, cwd=ROOT, env=head.env, capture_output=True, text=True, timeout=900)


@pytest.mark.cluster
def test_the_demo_runs_as_a_job_and_leaves_its_report(head, tmp_path):
    sets = [part for item in TINY for part in ("--set", item)]
    done = submit(head, "--recipe", "demo", "--workspace", str(tmp_path / "ws"), *sets)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "[prepare] done" in done.stdout, "the job's log was followed"
    assert "[report] done" in done.stdout
    reports = list((tmp_path / "ws" / "evaluation").glob("*/report.html"))
    assert len(reports) == 1
    assert reports[0].stat().st_size > 10_000
    assert list((tmp_path / "ws" / "pretrain").glob("*/weights.safetensors"))


@pytest.mark.cluster
def test_a_failing_job_returns_its_status(head, tmp_path):
    done = submit(head, "--recipe", "demo", "--set", "pretrain.epoch=1", "--workspace", str(tmp_path))
    assert done.returncode == 1
    assert "did you mean 'epochs'?" in done.stdout + done.stderr


@pytest.mark.cluster
def test_a_worker_with_a_working_dir_has_the_standard_librarys_platform(head):
    code = (
        "import ray; ray.init(address='auto')\n"
        "def where():\n import platform, os; return platform.__file__, platform.system(), os.listdir('.')\n"
        "f, system, here = ray.get(ray.remote(where).remote()); print(f, system)\n"
        "assert 'platform' in here and f.endswith('platform.py'), (f, here)"
    )
    command = [str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", str(ROOT)]
    excludes = '{"excludes": [".git", ".venv", "runs", "docs"]}'
    done = subprocess.run(
        [*command, "--runtime-env-json", excludes, "--", sys.executable, "-c", f"exec({code!r})"],
        env=head.env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "platform.py" in done.stdout


def test_a_dashboard_that_does_not_answer_is_named(tmp_path):
    from ctplatform.errors import StageError
    from ctplatform.submission import submit as submit_here

    with pytest.raises(StageError, match="no Ray dashboard answers at"):
        submit_here([], address=f"http://127.0.0.1:{free_port()}", root=ROOT)


def test_submitting_from_elsewhere_is_said(tmp_path):
    from ctplatform.errors import StageError
    from ctplatform.submission import submit as submit_here

    with pytest.raises(StageError, match="holds no"):
        submit_here([], address="http://127.0.0.1:1", root=tmp_path)


def test_without_a_token_it_says_where_to_put_one(tmp_path):
    bare = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    command = [
        sys.executable,
        str(ROOT / "jobs" / "submit.py"),
        "--address",
        f"http://127.0.0.1:{free_port()}",
    ]
    done = subprocess.run([*command, "--", "x"], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 1
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_pins_are_the_tested_versions():
    from ctplatform.submission import pins

    found = pins(ROOT)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()
    assert len(found) >= 15
    assert not any(pin.startswith("ray") for pin in found)
    for pin in found:
        name, _, version = pin.partition("==")
        assert f"{name.partition('[')[0].lower()}=={version}" in lines


def test_an_upload_is_small():
    """What Ray would send: the tree without the excludes, far below the 100 MiB that a head takes."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes  # Ray's own rules

    from ctplatform.submission import EXCLUDES

    sent: list = []
    _dir_travel(ROOT, [_get_excludes(ROOT, EXCLUDES)], sent.append, include_gitignore=True)
    names = {path.relative_to(ROOT).parts[0] for path in sent if path.is_file()}
    assert {"jobs", "platform", "drasclr"} <= names
    assert not names & {".git", ".venv", "docs", "tests"}
    assert sum(path.stat().st_size for path in sent if path.is_file()) < 3_000_000
