"""Post-mortem of a failed run: written into the workspace before the job ends, read by `drasclr status`.

One folder a failure below `postmortem/`: `summary.json` (what failed and why, stage states, resolved recipe, nodes and
their deaths, versions) and `logs.txt` (the last lines of every failed task and of every log that holds an error).
Paths of scans, which may contain names of patients, are removed from every line.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform import __version__
from ctplatform.errors import without_credentials
from ctplatform.pipeline.records import now, read_records, sources_digest
from ctplatform.storage.layout import POSTMORTEM, POSTMORTEM_LOGS, POSTMORTEM_SUMMARY
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.config.recipe import Recipe

logger = logging.getLogger(__name__)
LAST_LINES = 60
MAX_TASKS, MAX_LOGS = 20, 20
STATE_TIMEOUT_S = 10
PACKAGES = ("ray", "torch", "numpy", "pyarrow", "pandas", "SimpleITK", "pydicom", "nibabel")
#: Paths of code and of Ray's own files; they contain no names of patients.
CODE_PATH = re.compile(
    r"/(?:[^/\s'\"]+/)*(?:site-packages|ctplatform|drasclr|jobs|lib/python[0-9.]+|session_[^/\s]+)/[^\s'\":]*"
)
ANY_PATH = re.compile(r"(?:[a-z0-9]+://|/)(?:[^/\s'\",:;()]+/)+[^\s'\",:;()]*")
#: The name of a file or folder that messages may hold as a word.
PLAIN_WORD = re.compile("[a-z]+")
#: A path in quotation marks, whatever it holds.
QUOTED_PATH = re.compile(r"(?P<mark>['\"])(?P<path>(?:[a-z0-9]+://|/|~)[^'\"\n]*)(?P=mark)")
#: A path with blanks: their parts before another slash, or before the suffix of a scan.
BLANKS_PATH = re.compile(
    r"(?:[a-z0-9]+://|(?<![\w<])/)[^\s/'\",:;()]+(?: [^\s/'\",:;()]+)*"
    r"(?:/[^\s/'\",:;()]+(?: [^\s/'\",:;()]+)*)*"
    r"(?:/[^\s/'\",:;()]*|\.(?:nii(?:\.gz)?|dcm|ima|nrrd|nhdr|mha|mhd|raw|img|zip)\b)"
)
ERROR_LINE = re.compile(r"Traceback|Error|ERROR|FATAL|Killed|out of memory|SIG[A-Z]+")


@dataclass(frozen=True)
class Bundle:
    """A written post-mortem."""

    name: str
    stage: str
    problem: str
    when: str


def write_bundle(
    workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, stage: str, error: BaseException
) -> str:
    """Write a failure's post-mortem; returns the folder's name. Never raises, so that the failure itself is not hidden.

    Args:
        workspace: receives `postmortem/<time>-<stage>/`.
        cohort: its paths are removed from all texts.
        recipe: as resolved.
        stage: where it failed.
        error: why.
    """
    name = f"{now().replace(':', '').replace('-', '')}-{stage}"
    clean = scrubber(cohort)
    try:
        summary = {
            "stage": stage,
            "when": now(),
            "error": type(error).__name__,
            "code": getattr(error, "code", ""),
            "problem": clean(str(error) or type(error).__name__),
            "remedy": clean(getattr(error, "remedy", "")),
            "traceback": [clean(line) for line in traceback.format_exception(error)],
            "job": os.environ.get("RAY_JOB_ID", ""),
            "stages": [_plain(asdict(record), clean) for record in read_records(workspace)],
            "recipe": _plain(recipe.model_dump(mode="json"), clean),
            "versions": versions(),
            "nodes": _part(_nodes),
            "failed_tasks": _plain(_part(_failed_tasks), clean),
        }
        text = "\n".join(clean(line) for line in _logs(summary["failed_tasks"]))
        workspace.write_bytes(text.encode(), POSTMORTEM, name, POSTMORTEM_LOGS)
        # Last: this file marks the bundle as whole.
        workspace.write_json(summary, POSTMORTEM, name, POSTMORTEM_SUMMARY)
    except Exception:
        logger.exception("the post-mortem of %s could not be written", stage)
        return ""
    return name


def read_bundles(workspace: Workspace) -> list[Bundle]:
    """All post-mortems, oldest first."""
    found = []
    for name in workspace.folders(POSTMORTEM):
        if workspace.exists(POSTMORTEM, name, POSTMORTEM_SUMMARY):
            summary = workspace.read_json(POSTMORTEM, name, POSTMORTEM_SUMMARY)
            found.append(Bundle(name, summary["stage"], summary["problem"], summary["when"]))
    return found


def scrubber(cohort: pd.DataFrame) -> Callable[[str], str]:
    """A function that replaces paths of scans by their ids and other paths, except of code and Ray, by <path>.

    The name of a scan's file or folder is replaced as well; one that is a plain word, such as "missing", only in a path
    or in quotation marks, since messages hold such words.
    """
    known: dict[str, str] = {}
    words: dict[str, str] = {}
    if len(cohort) and "path" in cohort:
        for scan, path in zip(cohort["scan_id"], cohort["path"], strict=True):
            known[str(path)] = f"<scan {scan}>"
            name = Path(str(path)).name
            if PLAIN_WORD.fullmatch(name):
                words.setdefault(name, f"<scan {scan}>")
            elif len(name) > 3:
                known.setdefault(name, f"<scan {scan}>")
    pattern = _any_of(known)
    in_path = re.compile(rf"(?<=[/\\'\"])(?:{_any_of(words).pattern})(?!\w)") if words else None

    def clean(text: str) -> str:
        text = without_credentials(text)
        if known:
            text = pattern.sub(lambda match: known[match.group()], text)
        if in_path:
            text = in_path.sub(lambda match: words[match.group()], text)
        text = QUOTED_PATH.sub(
            lambda m: m.group() if CODE_PATH.fullmatch(m["path"]) else f"{m['mark']}<path>{m['mark']}", text
        )
        text = BLANKS_PATH.sub(lambda m: "<path>" if " " in m.group() else m.group(), text)
        return ANY_PATH.sub(lambda m: m.group() if CODE_PATH.fullmatch(m.group()) else "<path>", text)

    return clean


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Any of some names, the longest that fits."""
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))


def versions() -> dict[str, str]:
    """Versions of this software and of the packages that it uses."""
    found = {"drasclr": __version__, "sources": sources_digest(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return {**found, "system": platform.platform(), "command": Path(sys.argv[0]).name}


def _nodes() -> list[dict[str, Any]]:
    """Every node of the cluster, those that failed with the reason."""
    import ray

    if not ray.is_initialized():
        return []
    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [
        {
            "node": node["NodeID"],
            "alive": node["Alive"],
            "death": str(node.get("DeathReasonMessage") or node.get("DeathReason") or ""),
            "resources": {k: v for k, v in node["Resources"].items() if not k.startswith("node:")},
            "labels": {k: v for k, v in (node.get("Labels") or {}).items() if "ip" not in k.lower()},
        }
        for node in nodes()
    ]


def _failed_tasks() -> list[dict[str, Any]]:
    """Failed tasks from Ray's state API; none in a session without it."""
    import ray
    from ray.util.state import list_tasks

    from ctplatform.compute.ray_internals import own_cluster

    if not ray.is_initialized():
        return []
    with own_cluster():
        tasks = list_tasks(
            filters=[("state", "=", "FAILED")],
            limit=MAX_TASKS,
            detail=True,
            timeout=STATE_TIMEOUT_S,
            raise_on_missing_output=False,
        )
    return [
        {
            "task": task.task_id,
            "name": task.name,
            "attempt": task.attempt_number,
            "node": task.node_id,
            "error": task.error_type,
            "message": "\n".join((task.error_message or "").splitlines()[-LAST_LINES:]),
        }
        for task in tasks
    ]


def _logs(tasks: Any) -> Iterable[str]:
    """Last lines of the failed tasks, on whichever node they ran, then of this node's logs with an error in them."""
    for task in tasks if isinstance(tasks, list) else []:
        yield f"== task {task['name']} {task['task']}, attempt {task['attempt']}: {task['error']}"
        yield from task["message"].splitlines()
        yield from _part(partial(_task_log, task["task"], task["attempt"]))
    for path, lines in _part(_local_logs):
        yield f"== {path}"
        yield from lines


def _task_log(task: str, attempt: int) -> list[str]:
    from ray.util.state import get_log

    from ctplatform.compute.ray_internals import own_cluster

    with own_cluster():
        parts = get_log(
            task_id=task,
            attempt_number=attempt,
            suffix="err",
            tail=LAST_LINES,
            timeout=STATE_TIMEOUT_S,
            errors="replace",
        )
        text = "".join(parts)
    return text.splitlines()


def _local_logs() -> list[tuple[str, list[str]]]:
    """Logs of workers and of training on this node whose last lines hold an error, newest first."""
    import ray

    from ctplatform.compute.ray_internals import session_folder

    if not ray.is_initialized():
        return []
    session = session_folder()
    if session is None:  # connected from outside: the logs are elsewhere
        return []
    names = ("worker-", "ray-train", "python-core-worker")
    paths = [path for path in (session / "logs").rglob("*") if path.is_file() and path.name.startswith(names)]
    found = []
    for path in sorted(paths, key=lambda p: p.stat().st_mtime, reverse=True):
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 64_000))
            lines = stream.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        if any(ERROR_LINE.search(line) for line in lines):
            found.append((path.name, lines))
        if len(found) == MAX_LOGS:
            break
    return found


def _part(collect: Callable[[], Any]) -> Any:
    """One part of a bundle, empty if it cannot be collected."""
    try:
        return collect()
    except Exception as error:
        logger.info("post-mortem: %s", error)
        return []


def _plain(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {key: _plain(inner, clean) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, clean) for inner in value]
    return value
