"""TODO."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        name: also of its command and job script.
        inputs: what it reads: `scans` and `labels` are the cohort's, the others are outputs of stages before it.
        outputs: what it writes.
        settings: sections or keys of the recipe that its result depends on.
        hardware: keys and sections below them that change where and how fast it runs, not what comes out.
        of_run: whether it belongs to one training run of the workspace.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: tuple[str, ...]
    hardware: tuple[str, ...] = ()
    of_run: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether a stage has to run.

    `action` is skip, run (from the beginning or what a change asks for), resume (it was cut off) or wait (what it
    reads is not there yet). `redo` says that finished work must go first: other code made it.
    """

    stage: str
    action: str
    why: str
    redo: bool = False
