"""Records of the stages: one small JSON file each, below `stages/` of the workspace.

A record is written when a stage starts and again when it ends, so that a stage that was cut off is recognised. Stages
that belong to a training run have a record for each run.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ctplatform import __version__
from ctplatform.storage.layout import JSON, STAGE_RECORDS, stage_record
from ctplatform.storage.workspace import Workspace


@dataclass(frozen=True)
class Record:
    """One stage's last run.

    `state` is running, finished, failed, or interrupted by the user or a request to stop. A finished record with
    `complete` False left something that a second run may still do. `left_out` says that the stage was passed over,
    because the cohort has no labels. `settings` and `inputs` are what it was made from; `software` and `sources` name
    the code.
    """

    stage: str
    state: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    software: str = __version__
    sources: str = ""
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    text: str = ""
    complete: bool = True
    done: int = 0
    total: int = 0
    job: str = ""
    run: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)
    left_out: bool = False

    def ended_as(self, state: str, **changes: Any) -> Record:
        """The same stage, ended now."""
        return replace(self, state=state, ended=now(), **changes)


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def sources_digest() -> str:
    """Eight hex digits of this project's Python sources, to tell two states of a development tree apart."""
    package = Path(__file__).resolve().parent.parent
    text = hashlib.sha256()
    for folder in (package, package.parent.parent / "drasclr", package.parent / "drasclr"):
        for path in sorted(folder.rglob("*.py")):
            text.update(path.name.encode() + path.read_bytes())
    return text.hexdigest()[:8]


def write_record(workspace: Workspace, record: Record) -> None:
    """Replace the stage's record."""
    workspace.write_json(asdict(record), *stage_record(record.stage, record.run))


def read_record(workspace: Workspace, stage: str, run: str = "") -> Record | None:
    """The stage's record (of a training run, for stages that belong to one); None if it never ran.

    Raises:
        StageError: the record is damaged.
    """
    place = stage_record(stage, run)
    if not workspace.exists(*place):
        return None
    record = workspace.read_record(Record, *place)
    left_out = record.left_out
    if not left_out and record.text.startswith("left out"):
        # In records of version 0.1.0 only the text says that the stage was left out.
        left_out = "left_out" not in workspace.read_json(*place)
    return replace(record, notes=tuple(record.notes), left_out=left_out)


def read_records(workspace: Workspace) -> list[Record]:
    """All records, those of the whole workspace first, then run by run."""
    found = [read_record(workspace, name.removesuffix(JSON)) for name in workspace.files(STAGE_RECORDS)]
    for run in workspace.folders(STAGE_RECORDS):
        names = workspace.files(STAGE_RECORDS, run)
        found += [read_record(workspace, name.removesuffix(JSON), run) for name in names]
    return [record for record in found if record]
