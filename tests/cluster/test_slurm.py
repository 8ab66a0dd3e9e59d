"""cluster/slurm.sh from its first line to its last, with two nodes of one machine in place of an allocation.

SLURM is not here: `srun` runs its command on this machine, `scontrol` names two nodes and notes what is requeued,
`sbatch` runs the script and sends it TERM, as SLURM does before the time limit. All else is the script's own. What the
chain does when it is sent TERM is in `test_pretrain_kills`; here a stand-in of Python takes its place.
"""

from __future__ import annotations

import contextlib
import os
import sys

import psutil
import pytest

from tests.cluster.processes import Command, environment, free_port
from tests.conftest import ROOT

SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
[[ "$*" == "show hostnames one[1-2]" ]] && printf 'one1\\none2\\n'
"""
SBATCH = """#!/usr/bin/env bash
# Runs a script; sends TERM to its shell alone (--signal=B:TERM) each time that a file names a process to be signalled.
bash "$@" &
job=$!
while kill -0 "$job" 2>/dev/null; do
    if [[ -e $SIGNAL_NOW ]]; then rm "$SIGNAL_NOW"; kill -TERM "$job"; fi
    sleep 0.05
done
wait "$job"
"""
NOTING_SCONTROL = """#!/usr/bin/env bash
[[ $1 == show ]] && echo one1 || echo "$@" >> "$REQUEUED"
"""
RAY = """#!/usr/bin/env bash
[[ $1 == start ]] && exec sleep 600 || exit 0
"""
RAY_WITHOUT_PORT = """#!/usr/bin/env bash
exit 1
"""
CHAIN = """#!/usr/bin/env bash
# The chain: {how} when it is sent TERM, or ends by itself with a status.
echo "chain: $*"
trap 'echo got TERM; sleep 0.3; echo stored; exit {on_term}' TERM
touch "$STARTED"
for _ in $(seq {tenths}); do sleep 0.1; done
exit {status}
"""
SETS = ("phantom.subjects=4", "phantom.spacing_mm=3.0", "atlas.step=60", "atlas.max_scans=2")


@pytest.mark.cluster
def test_the_script_starts_a_cluster_and_runs_the_chain_on_it(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    env = environment(tmp_path)
    env = {k: v for k, v in env.items() if not k.startswith("RAY_AUTH")} | {
        "PATH": f"{tools}:{env['PATH']}",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_JOB_NODELIST": "one[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
        "DRASCLR_VENV": sys.prefix,
        "DRASCLR_PORT": str(free_port()),
        "DRASCLR_DASHBOARD_PORT": str(free_port()),
    }
    sets = [part for item in SETS for part in ("--set", item)]
    arguments = ["--recipe", "demo", "--workspace", str(tmp_path / "ws"), "--to", "atlas", *sets]
    job = Command(["bash", "cluster/slurm.sh", *arguments], env, tmp_path / "log")
    try:
        # What is left running ends with SLURM's job, here with its process group.
        job.until(lambda: "[atlas] done" in job.text() or job.process.poll() is not None)
    finally:
        nodes = job.tree()
        job.end()
    text = job.text()
    assert "[atlas] done" in text
    assert text.count("Ray runtime started") == 2, "a head and a worker"
    assert nodes
    assert (tmp_path / "ws" / "atlas" / "atlas.json").exists()


@pytest.fixture
def submit(tmp_path):
    """Runs the script under stand-ins; returns (output, status, requeued jobs)."""
    started = []

    def submit(*, on_term=75, status=0, tenths=600, signals=0, ray=RAY):
        tools, venv = tmp_path / "bin", tmp_path / "venv" / "bin"
        for folder in (tools, venv):
            folder.mkdir(parents=True)
        chain = CHAIN.format(how="stops", on_term=on_term, status=status, tenths=tenths)
        files = {
            tools / "srun": SRUN,
            tools / "scontrol": NOTING_SCONTROL,
            tools / "sbatch": SBATCH,
            venv / "ray": ray,
            venv / "python": chain,
        }
        for path, text in files.items():
            path.write_text(text)
            path.chmod(0o755)
        requeued, now, begun = (tmp_path / name for name in ("requeued", "now", "begun"))
        env = environment(tmp_path) | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "one1",
            "SLURM_CPUS_PER_TASK": "1",
            "DRASCLR_VENV": str(venv.parent),
            "REQUEUED": str(requeued),
            "SIGNAL_NOW": str(now),
            "STARTED": str(begun),
        }
        script = str(ROOT / "cluster" / "slurm.sh")
        job = Command([str(tools / "sbatch"), script, "--recipe", "fast"], env, tmp_path / "log")
        started.append(job)
        if ray == RAY:
            job.until(begun.exists, seconds=120)
        for _ in range(signals):
            now.touch()
            job.until(lambda: not now.exists(), seconds=240)
        job.process.wait(300)
        lines = requeued.read_text().splitlines() if requeued.exists() else []
        return job.text(), job.process.returncode, lines

    yield submit
    for job in started:
        for process in [*job.tree(), *psutil.process_iter()]:
            with contextlib.suppress(psutil.Error):
                if os.getpgid(process.pid) == job.process.pid:
                    process.kill()


def test_term_is_forwarded_waited_for_and_requeued(submit):
    text, status, requeued = submit(signals=1)
    assert "chain: jobs/pipeline.py --take-over --recipe fast" in text
    assert text.index("got TERM") < text.index("stored") < text.index("is requeued")
    assert status == 75
    assert requeued == ["requeue 4711"]


def test_a_second_term_does_not_cut_the_wait_short(submit):
    text, status, requeued = submit(signals=2)
    assert "stored" in text
    assert (status, requeued) == (75, ["requeue 4711"])


def test_a_stage_that_ends_at_once_is_requeued_too(submit):
    _, status, requeued = submit(on_term=143, signals=1)
    assert (status, requeued) == (143, ["requeue 4711"])


@pytest.mark.parametrize("status", [0, 1])
def test_a_chain_that_ends_by_itself_is_not_requeued(submit, status):
    _, ended, requeued = submit(status=status, tenths=1)
    assert (ended, requeued) == (status, [])


def test_a_head_that_does_not_start_ends_the_job_and_names_the_ports(submit):
    text, status, requeued = submit(ray=RAY_WITHOUT_PORT)
    assert "set DRASCLR_PORT and DRASCLR_DASHBOARD_PORT" in text
    assert "chain:" not in text
    assert (status, requeued) == (1, [])
