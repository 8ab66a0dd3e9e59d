"""The workspace: whether it can be written, has what the first stage reads, and room for what will be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.errors import PlatformError
from ctplatform.pipeline.checks.finding import Finding, of_error
from ctplatform.pipeline.graph import GRAPH, maker
from ctplatform.storage.layout import CARD_FILE, PRETRAIN

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.pipeline.dry_run import Step
    from ctplatform.storage.workspace import Workspace


def place_findings(workspace: Workspace) -> list[Finding]:
    """Whether the workspace is a folder that can be written, or can become one. Nothing is written."""
    if not workspace.is_local:
        try:
            workspace.exists()
        except PlatformError as error:
            return [of_error("--workspace", error)]
        return []
    folder = nearest(Path(workspace.root))
    if not folder.is_dir():
        problem = f"{folder} is a file, no folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"{folder} may not be written by this user"
    else:
        return []
    return [Finding("error", "--workspace", problem, "Give another folder, or an s3:// or gs:// URI")]


def nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def input_findings(steps: Sequence[Step]) -> list[Finding]:
    """Inputs of a stage that are not there and that no stage before it will make."""
    found = []
    for step in steps:
        if step.decision.action == "wait":
            absent = [name for name in GRAPH[step.decision.stage].inputs if name in step.decision.why]
            first = maker(absent[0]) if absent else "prepare"
            found.append(
                Finding(
                    "error",
                    step.decision.stage,
                    step.decision.why,
                    f"Run `drasclr {first}` first, or the whole chain with `drasclr run`",
                )
            )
    return found


def run_findings(workspace: Workspace, recipe: Recipe, stages: Collection[str]) -> list[Finding]:
    """Pretraining runs that the recipe names and the workspace does not hold."""
    found = []
    if "sweep" in stages:
        for name, run in recipe.sweep.runs.items():
            if not workspace.exists(PRETRAIN, run, CARD_FILE):
                there = ", ".join(workspace.folders(PRETRAIN)) or "none"
                found.append(
                    Finding(
                        "error",
                        f"sweep.runs.{name}",
                        f"the workspace has no finished run {run!r}",
                        f"Name one of: {there}",
                    )
                )
    return found


def atlas_findings(recipe: Recipe, stages: Collection[str]) -> list[Finding]:
    """Whether a given atlas is one, where it will be read."""
    if "atlas" not in stages or recipe.atlas.source == "build":
        return []
    from ctplatform.preparation.atlas import given_atlas

    try:
        given_atlas(recipe.atlas.source)
    except PlatformError as error:
        return [of_error("--atlas", error)]
    return []


def disk_findings(workspace: Workspace, steps: Sequence[Step]) -> list[Finding]:
    """Free space of a local workspace against what the stages will write.

    A warning, as that is an estimate; a run that fills the disk keeps what it finished.
    """
    wanted = sum(step.work.written_bytes for step in steps)
    if not workspace.is_local or not wanted:
        return []
    free = shutil.disk_usage(nearest(Path(workspace.root))).free
    if wanted <= free:
        return []
    return [
        Finding(
            "warning",
            "disk",
            f"about {wanted / 1e9:.1f} GB will be written, and {free / 1e9:.1f} GB are free",
            "Free space there, or give a workspace on another disk",
        )
    ]
