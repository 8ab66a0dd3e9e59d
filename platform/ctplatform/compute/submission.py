"""Submitting the chain to a running Ray cluster: small upload, followed log, real exit status.

The job belongs to the cluster from the moment that it is submitted: a lost connection, a closed laptop or Ctrl-C
does not end it. A log that broke off goes on at the character where it stopped.
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

from ctplatform import __version__
from ctplatform.compute.job_log import Follow, attach, connect
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


def submit(
    arguments: Sequence[str],
    *,
    address: str,
    root: str | Path = ".",
    follow: bool = True,
    install: bool = False,
    options: Follow | None = None,
) -> int:
    """Submit `jobs/pipeline.py` with these arguments from a source tree.

    Args:
        arguments: what `python jobs/pipeline.py` gets.
        address: of the Ray dashboard, http://host:8265.
        root: the source tree, uploaded as the job's working directory.
        follow: print the log until the job ends.
        install: let every node install the pinned dependencies for this job; otherwise its image has them.
        options: patience and what happens on Ctrl-C.

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
    return attach(job, address=address, client=client, options=options) if follow else 0


def metadata(arguments: Sequence[str]) -> dict[str, str]:
    """What the dashboard shows beside the job: software, recipe, workspace, who submitted it."""
    values = {"project": "drasclr", "version": __version__}
    for option in ("--recipe", "--workspace", "--from", "--to"):
        for place, word in enumerate(arguments):
            if word == option and place + 1 < len(arguments):
                values[option.strip("-")] = arguments[place + 1]
            elif word.startswith(f"{option}="):
                values[option.strip("-")] = word.partition("=")[2]
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
    exact: dict[str, str] = {}
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, sep, version = line.partition("==")
        if sep and not line.startswith("#"):
            exact[_canonical(name)] = version.strip()
    found = []
    for requirement in project["dependencies"]:
        name = requirement.split(">")[0].split("=")[0].split("<")[0].strip()
        bare = name.partition("[")[0]
        if _canonical(bare) not in exact:
            raise StageError(
                f"constraints.txt pins no version of {bare}", "Add the tested version there", code="submit"
            )
        found.append(f"{name}=={exact[_canonical(bare)]}")
    # Ray itself is what runs the installation: it comes with the node.
    return [pin for pin in found if not pin.startswith("ray[")]


def _submit(client: Any, entrypoint: str, environment: dict[str, Any], about: dict[str, str]) -> str:
    """Submit; a head that has just started needs a moment until its agent takes jobs."""
    deadline = time.monotonic() + AGENT_WAIT_S
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=environment, metadata=about)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise StageError(
                    f"the cluster did not take the job: {str(error).splitlines()[0]}",
                    "Look at the dashboard's log of the head node",
                    code="submit",
                ) from None
            time.sleep(1.0)


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-")
