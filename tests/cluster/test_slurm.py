"""cluster/slurm.sh from its first line to its last, with two nodes of one machine in place of an allocation.

SLURM is not here: `srun` runs its command on this machine, `scontrol` names two nodes. All else is the script's own.
"""

from __future__ import annotations

import sys

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
    }
    sets = [part for item in SETS for part in ("--set", item)]
    arguments = ["--recipe", "demo", "--workspace", str(tmp_path / "ws"), "--to", "atlas", *sets]
    job = Command(["bash", "cluster/slurm.sh", *arguments], env, tmp_path / "log")
    try:
        # What is left running ends with SLURM's job, here with its process group.
        job.until(lambda: "[atlas] done" in job.text() or job.process.poll() is not None, seconds=240)
    finally:
        nodes = job.tree()
        job.end()
    text = job.text()
    assert "[atlas] done" in text
    assert text.count("Ray runtime started") == 2, "a head and a worker"
    assert nodes
    assert (tmp_path / "ws" / "atlas" / "atlas.json").exists()
