"""State of a workspace: its stages, its scans and its last failure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ctplatform.errors import StageError
from ctplatform.pipeline.graph import STAGES
from ctplatform.pipeline.postmortem import Bundle, read_bundles
from ctplatform.pipeline.records import Record, read_records
from ctplatform.storage.layout import POSTMORTEM, POSTMORTEM_LOGS
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 160  # a stage's one line


@dataclass(frozen=True)
class Status:
    """What a workspace says of itself.

    Attributes:
        records: the stages' last runs, run by run in the order of the chain.
        rows: scan_id, state, reason and remedy of every scan; None if none was prepared.
        failures: post-mortems, the newest last.
    """

    records: list[Record]
    rows: pd.DataFrame | None
    failures: list[Bundle]

    @property
    def solved(self) -> bool:
        """Whether the stage of the last failure has finished since."""
        last = self.failures[-1]
        return any(
            r.stage == last.stage and r.state == "finished" and r.ended > last.when for r in self.records
        )


def read_status(workspace: Workspace) -> Status:
    """State of a workspace.

    Raises:
        StageError: nothing has run in this workspace.
    """
    from ctplatform.dataset.ledger import read_ledger

    records, failures = read_records(workspace), read_bundles(workspace)
    try:
        rows = read_ledger(workspace, columns=["scan_id", "state", "reason", "remedy"])
    except StageError:
        if not records and not failures:
            raise
        rows = None
    order = {stage: place for place, stage in enumerate(STAGES)}
    return Status(sorted(records, key=lambda r: (r.run, order.get(r.stage, 99))), rows, failures)


def status_json(workspace: Workspace) -> dict[str, Any]:
    """The same as plain values: what `drasclr status --json` prints.

    Raises:
        StageError: nothing has run in this workspace.
    """
    found = read_status(workspace)
    hidden = ("settings", "inputs", "notes")
    scans = None
    if found.rows is not None:
        bad = found.rows[found.rows["state"] != "accepted"].fillna("")
        scans = {
            "counts": {str(state): int(n) for state, n in found.rows["state"].value_counts().items()},
            "not_accepted": bad.to_dict("records"),
        }
    last = found.failures[-1] if found.failures else None
    return {
        "workspace": workspace.display(),
        "stages": [{k: v for k, v in asdict(r).items() if k not in hidden} for r in found.records],
        "scans": scans,
        "failures": len(found.failures),
        "last_failure": last
        and {
            "stage": last.stage,
            "when": last.when,
            "problem": last.problem,
            "finished_since": found.solved,
            "bundle": workspace.display(POSTMORTEM, last.name),
        },
    }


def show_status(workspace: Workspace) -> None:
    """Stages with their state, scans by verdict with reasons, and the newest post-mortem.

    Raises:
        StageError: nothing has run in this workspace.
    """
    found = read_status(workspace)
    for record in found.records:
        print(stage_line(record))
    if found.rows is not None:
        show_scans(found.rows)
    if found.failures:
        last = found.failures[-1]
        solved = "; it has finished since" if found.solved else ""
        print(
            f"\n{len(found.failures)} failure(s); the last one: {last.stage} at {last.when}{solved}: {last.problem}"
        )
        print(
            f"  {workspace.display(POSTMORTEM, last.name)}/ has its recipe, stage states, nodes, versions and "
            f"{POSTMORTEM_LOGS}"
        )


def show_scans(rows: object) -> None:
    """Counts by state and each scan's reason."""
    import pandas as pd

    from ctplatform.dataset.ledger import STATES

    assert isinstance(rows, pd.DataFrame)
    counts = rows["state"].value_counts()
    print(", ".join(f"{counts.get(state, 0)} {state}" for state in STATES))
    for row in rows[rows["state"] != "accepted"].itertuples():
        print(f"  {row.scan_id}  {row.state}: {row.reason}. {row.remedy}".rstrip(". ") + ".")


def stage_line(record: Record) -> str:
    """One line: state, progress, when, what came out."""
    progress = f" {record.done}/{record.total}" if record.state != "finished" and record.total else ""
    when = record.ended or f"since {record.started}"
    run = f" ({record.run})" if record.run else ""
    line = f"[{record.stage}]{run} {record.state}{progress} {when}: {record.text}".rstrip(": ")
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
