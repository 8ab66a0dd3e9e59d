"""State of a workspace: its stages, its scans and its last failure."""

from __future__ import annotations

from ctplatform.errors import StageError
from ctplatform.pipeline.graph import STAGES
from ctplatform.pipeline.postmortem import read_bundles
from ctplatform.pipeline.records import Record, read_records
from ctplatform.storage.layout import POSTMORTEM, POSTMORTEM_LOGS
from ctplatform.storage.workspace import Workspace

WIDTH = 160  # a stage's one line


def show_status(workspace: Workspace) -> None:
    """Stages with their state, scans by verdict with reasons, and the newest post-mortem.

    Raises:
        StageError: nothing has run in this workspace.
    """
    from ctplatform.dataset.ledger import read_ledger

    records, bundles = read_records(workspace), read_bundles(workspace)
    for record in sorted(records, key=lambda r: (r.run, STAGES.index(r.stage) if r.stage in STAGES else 99)):
        print(stage_line(record))
    try:
        rows = read_ledger(workspace, columns=["scan_id", "state", "reason", "remedy"])
    except StageError:
        if not records and not bundles:
            raise
        rows = None
    if rows is not None:
        show_scans(rows)
    if bundles:
        last = bundles[-1]
        since = [
            r for r in records if r.stage == last.stage and r.state == "finished" and r.ended > last.when
        ]
        solved = "; it has finished since" if since else ""
        print(
            f"\n{len(bundles)} failure(s); the last one: {last.stage} at {last.when}{solved}: {last.problem}"
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
