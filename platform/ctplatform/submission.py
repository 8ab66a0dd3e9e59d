"""Submitting the chain to a running Ray cluster: small upload, followed log, real exit status."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctplatform.errors import StageError

EXCLUDES = [
    ".git",
    ".venv",
    "runs",
    "docs",
    "tests",
    "**/__pycache__",
    "*.egg-info",
    ".pytest_cache",
    ".ruff_cache",
    ".mypy_cache",
]
ENTRY = "jobs/pipeline.py"
AGENT_WAIT_S = 60.0


def submit(arguments: Sequence[str], *, address: str, root: str | Path = ".", follow: bool = True) -> int:
    """Submit `jobs/pipeline.py` with these arguments from a source tree.

    Args:
        arguments: what `python jobs/pipeline.py` gets.
        address: of the Ray dashboard, http://host:8265.
        root: the source tree, uploaded as the job's working directory.
        follow: print the log until the job ends.

    Returns:
        The job's exit status: 0 when it succeeded; 0 at once without `follow`.

    Raises:
        StageError: no tree at `root`, or no dashboard at `address`.
    """
    root = Path(root).resolve()
    if not (root / ENTRY).is_file():
        raise StageError(f"{root} holds no {ENTRY}", "Run this in the source tree", code="submit")
    # Ray reads this when it is imported: clusters that ask for a token get it, others ignore it.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise StageError(
            f"no Ray dashboard answers at {address}: {str(error).splitlines()[0]}",
            "Start one with `ray start --head --include-dashboard=true`, or give --address",
            code="submit",
        ) from None
    for name in ("ray._private.runtime_env.packaging", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    job = _submit(client, shlex.join(["python", ENTRY, *arguments]), root)
    print(f"submitted {job}; also at {address}/#/jobs/{job}", flush=True)
    if not follow:
        return 0
    asyncio.run(_follow(client, job))
    info = client.get_job_info(job)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    print(f"job {job} ended as {info.status}: {info.message or ''}", file=sys.stderr, flush=True)
    return info.driver_exit_code or 1


def _submit(client: Any, entrypoint: str, root: Path) -> str:
    """Submit; a head that has just started needs a moment until its agent takes jobs."""
    deadline = time.monotonic() + AGENT_WAIT_S
    while True:
        try:
            return client.submit_job(
                entrypoint=entrypoint,
                runtime_env={"working_dir": str(root), "excludes": EXCLUDES},
                metadata={"project": "drasclr"},
            )
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise StageError(
                    f"the cluster did not take the job: {str(error).splitlines()[0]}",
                    "Look at the dashboard's log of the head node",
                    code="submit",
                ) from None
            time.sleep(1.0)


async def _follow(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
