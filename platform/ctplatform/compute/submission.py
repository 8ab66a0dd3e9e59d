"""Submission of the chain to a running Ray cluster: a small upload, a followed log, the exit status of the job.

The job belongs to the cluster from the moment that it is submitted: a lost connection, a closed laptop or Ctrl-C
does not end it. A log that broke off continues at the character where it stopped.
"""

from __future__ import annotations

import getpass
import os
import shlex
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ctplatform import __version__
from ctplatform.compute.job_log import FollowOptions, connect, follow_job
from ctplatform.errors import StageError, without_credentials

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


def submit(
    arguments: Sequence[str],
    *,
    address: str,
    root: str | Path = ".",
    follow: bool = True,
    install: bool = False,
    options: FollowOptions | None = None,
) -> int:
    """Submit `jobs/pipeline.py` with these arguments from a source tree.

    Args:
        arguments: of `python jobs/pipeline.py`.
        address: of the Ray dashboard, http://host:8265.
        root: the source tree, uploaded as the job's working directory.
        follow: print the log until the job ends.
        install: let every node install the pinned dependencies for this job; otherwise its image has them.
        options: how the job is followed.

    Returns:
        The job's exit status: 0 when it succeeded; 0 at once without `follow`; 75 when the connection stayed lost;
        130 after Ctrl-C.

    Raises:
        StageError: no tree at `root`, or no dashboard at `address`.
    """
    root = Path(root).resolve()
    if not (root / ENTRY).is_file():
        raise StageError(f"{root} holds no {ENTRY}", "Run this in the source tree", code="submit")
    client = connect(address)
    environment: dict[str, Any] = {"working_dir": str(root), "excludes": EXCLUDES}
    if install:
        environment["pip"] = {"packages": pins(root), "pip_check": False}
    job = _submit(client, shlex.join(["python", ENTRY, *arguments]), environment, metadata(arguments))
    print(f"submitted {job}; also at {address}/#/jobs/{job}", flush=True)
    return follow_job(job, address=address, client=client, options=options) if follow else 0


def metadata(arguments: Sequence[str]) -> dict[str, str]:
    """Metadata of the job for the dashboard: software, recipe, workspace, user."""
    values = {"project": "drasclr", "version": __version__}
    for option in ("--recipe", "--workspace", "--from", "--to"):
        for place, word in enumerate(arguments):
            if word == option and place + 1 < len(arguments):
                values[option.strip("-")] = arguments[place + 1]
            elif word.startswith(f"{option}="):
                values[option.strip("-")] = word.partition("=")[2]
    values = {key: without_credentials(value) for key, value in values.items()}
    try:
        values["submitted_by"] = getpass.getuser()
    except (KeyError, OSError):  # containers run under ids without a name
        values["submitted_by"] = str(os.getuid())
    return values


def pins(root: Path) -> list[str]:
    """The project's dependencies in the exact versions of constraints.txt.

    Raises:
        StageError: a dependency has no exact version there.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    exact = {
        canonicalize_name(pin.name): pin.specifier
        for pin in pinned
        if any(version.operator == "==" for version in pin.specifier)
    }
    found = []
    for requirement in map(Requirement, project["dependencies"]):
        if canonicalize_name(requirement.name) not in exact:
            raise StageError(
                f"constraints.txt pins no version of {requirement.name}",
                "Add the tested version there",
                code="submit",
            )
        requirement.specifier = exact[canonicalize_name(requirement.name)]
        if requirement.name != "ray":  # it runs the installation, and comes with the node
            found.append(str(requirement))
    return found


def _submit(client: Any, entrypoint: str, environment: dict[str, Any], about: dict[str, str]) -> str:
    """The id of the submitted job. The agent of a head that has just started accepts jobs only after a moment."""
    deadline = time.monotonic() + AGENT_WAIT_S
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment, metadata=about))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise StageError(
                    f"the cluster did not take the job: {str(error).splitlines()[0]}",
                    "Look at the dashboard's log of the head node",
                    code="submit",
                ) from None
            time.sleep(1.0)
