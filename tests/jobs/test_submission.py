"""A real Ray head with its dashboard on loopback; the demo as a submitted job, followed to its end."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ctplatform.compute.job_log import INTERRUPTED, LOST
from ctplatform.pipeline.graph import STAGES
from tests.cluster.processes import BIN, Command, Head, environment, free_port, until

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    head = Head(folder, environment(folder))
    yield head
    head.stop()


def run(head: Head, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, env=head.env, capture_output=True, text=True, timeout=900)


def submit(head: Head, *arguments: str) -> subprocess.CompletedProcess:
    return run(head, sys.executable, "jobs/submit.py", "--address", head.address, "--", *arguments)


def start(head: Head, code: str) -> str:
    """A job of a few lines of Python; its id."""
    command = [str(BIN / "ray"), "job", "submit", "--address", head.address, "--no-wait", "--"]
    done = run(head, *command, sys.executable, "-u", "-c", f"exec({code!r})")
    return re.search(r"raysubmit_\w+", done.stdout + done.stderr).group()


def follow(head: Head, log: Path, job: str, *more: str, address: str = "", **options: object) -> Command:
    """`drasclr submit --attach`."""
    command = [sys.executable, "jobs/submit.py", "--address", address or head.address, "--attach", job, *more]
    # Shells start what runs in their background without Ctrl-C, and so all below it: perhaps these tests.
    return Command(["env", "--default-signal=INT", *command], head.env, log, **options)


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
    # Ray's own command, and nothing left to do.
    chain = ("python", "jobs/pipeline.py", "--recipe", "demo", "--workspace", str(tmp_path / "ws"), *sets)
    plain = run(
        head, str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", ".", "--", *chain
    )
    assert plain.returncode == 0, plain.stdout[-3000:] + plain.stderr[-3000:]
    for stage in STAGES:
        assert f"[{stage}] unchanged" in plain.stdout


@pytest.mark.cluster
def test_a_failing_job_returns_its_status(head, tmp_path):
    (tmp_path / "file").touch()
    done = submit(head, "--recipe", "demo", "--workspace", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "is a file, no folder" in done.stdout + done.stderr


def test_what_cannot_end_well_is_not_submitted(tmp_path):
    """No cluster is needed to see it."""
    command = [sys.executable, str(ROOT / "jobs" / "submit.py"), "--", "--recipe", "demo"]
    done = subprocess.run(
        [*command, "--set", "pretrain.epoch=1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'epochs'?" in done.stderr


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
    done = run(head, *command, "--runtime-env-json", excludes, "--", sys.executable, "-c", f"exec({code!r})")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "platform.py" in done.stdout


class Line:
    """A connection to an address that can be cut and mended: what is open breaks off, nothing new comes through."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self.target, self.whole, self.open = (host, int(port)), True, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if not self.whole:
                near.close()
                continue
            far = socket.create_connection(self.target)
            self.open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.whole = False
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.whole = True


COUNT = "import time\nfor i in range(60):\n print('line', i, flush=True); time.sleep(0.3)"


@pytest.mark.cluster
def test_a_connection_that_is_lost_twice_costs_no_line(head, tmp_path):
    line, job = Line(head.address), start(head, COUNT)
    follower = follow(head, tmp_path / "log", job, address=line.address)
    try:
        for losses, number in enumerate((3, 20), 1):
            follower.until(lambda text=f"line {number}\n": text in follower.text(), seconds=240)
            line.cut()
            follower.until(lambda n=losses: follower.text().count("connection lost") == n, seconds=240)
            line.mend()
        text = follower.wait(seconds=240)
    finally:
        follower.end()
        line.listener.close()
    assert re.findall(r"line (\d+)", text) == [str(number) for number in range(60)]
    assert text.count("[connected again]") == 2


@pytest.mark.cluster
def test_who_does_not_come_back_is_left_with_what_to_do(head, tmp_path):
    line, job = Line(head.address), start(head, "import time; print('begun'); time.sleep(20)")
    follower = follow(head, tmp_path / "1.log", job, "--patience", "3", address=line.address)
    try:
        follower.until(lambda: "begun" in follower.text(), seconds=240)
        line.cut()
        text = follower.wait(status=LOST, seconds=240)
    finally:
        follower.end()
        line.listener.close()
    assert f"--attach {job}" in text
    follow(head, tmp_path / "2.log", job).wait(seconds=240)


@pytest.mark.cluster
def test_the_exit_status_is_the_jobs(head, tmp_path):
    text = follow(head, tmp_path / "log", start(head, "raise SystemExit(7)")).wait(status=7, seconds=240)
    assert "ended as FAILED" in text


@pytest.mark.cluster
@pytest.mark.parametrize(("answer", "end"), [("d", "SUCCEEDED"), ("s", "STOPPED"), (None, "SUCCEEDED")])
def test_ctrl_c_asks_on_a_terminal_and_detaches_elsewhere(head, tmp_path, answer, end):
    job = start(head, "import time\nprint('begun'); time.sleep(15)")
    ours, theirs = pty.openpty()
    terminal = {"stdin": theirs} if answer else {}
    follower = follow(head, tmp_path / "log", job, **terminal)
    try:
        follower.until(lambda: "begun" in follower.text(), seconds=240)
        follower.process.send_signal(signal.SIGINT)
        if answer:
            follower.until(lambda: "[d]etach" in follower.text(), seconds=180)
            os.write(ours, f"{answer}\n".encode())
        text = follower.wait(status=INTERRUPTED, seconds=180)
    finally:
        follower.end()
        os.close(ours)
        os.close(theirs)
    assert ("runs on; follow it again" if end == "SUCCEEDED" else f"stopping {job}") in text
    over = ("SUCCEEDED", "FAILED", "STOPPED")
    status = until(lambda: (now := head.get(f"/api/jobs/{job}")["status"]) in over and now, seconds=240)
    assert status == end


def test_a_dashboard_that_does_not_answer_is_named():
    """Also at a port whose digits look like the status of a refusal."""
    from ctplatform.compute.submission import submit as submit_here
    from ctplatform.errors import StageError

    for port in (free_port(), free_port(range(40100, 40200))):
        with pytest.raises(StageError, match="no Ray dashboard answers at"):
            submit_here([], address=f"http://127.0.0.1:{port}", root=ROOT)


def test_submitting_from_elsewhere_is_said(tmp_path):
    from ctplatform.compute.submission import submit as submit_here
    from ctplatform.errors import StageError

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
    done = subprocess.run(
        [*command, "--", "--recipe", "demo"], cwd=ROOT, env=bare, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_pins_are_the_tested_versions():
    from ctplatform.compute.submission import pins

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

    from ctplatform.compute.submission import EXCLUDES

    sent: list = []
    _dir_travel(ROOT, [_get_excludes(ROOT, EXCLUDES)], sent.append, include_gitignore=True)
    names = {path.relative_to(ROOT).parts[0] for path in sent if path.is_file()}
    assert {"jobs", "platform", "drasclr"} <= names
    assert not names & {".git", ".venv", "docs", "tests"}
    assert sum(path.stat().st_size for path in sent if path.is_file()) < 3_000_000
