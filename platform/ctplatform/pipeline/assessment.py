"""Whether a stage has to run, and why.

A stage is skipped when its inputs, its settings and the version of the code are those of its last finished run and its
outputs are there. Otherwise it runs, and does only what of its work is missing: finished scans, checkpoints, groups of
embeddings and trials are kept.
"""

from __future__ import annotations

from ctplatform import __version__
from ctplatform.pipeline.graph import COHORT_INPUTS, GRAPH, OPTIONAL_INPUTS, maker
from ctplatform.pipeline.progress import Decision
from ctplatform.pipeline.records import Record, read_record, sources_digest
from ctplatform.pipeline.stage import Stage
from ctplatform.pipeline.state import WorkspaceState, labels_digest, scans_digest

_DIGESTS = {"scans": scans_digest, "labels": labels_digest} | {
    name: compute for stage in GRAPH.values() for name, compute in stage.outputs.items()
}


def digest(state: WorkspaceState, name: str) -> str:
    """Twelve hex digits of an input or output; empty if it is not there."""
    if name not in state.digests:
        state.digests[name] = _DIGESTS[name](state)
    return state.digests[name]


def input_digests(state: WorkspaceState, stage: Stage) -> dict[str, str]:
    """Digest of everything that the stage reads."""
    return {name: digest(state, name) for name in stage.inputs}


def last_record(state: WorkspaceState, stage: Stage) -> Record | None:
    """Record of the stage's last run, if there was one."""
    if stage.of_run and not state.run:
        return None
    return read_record(state.workspace, stage.name, state.run if stage.of_run else "")


def assess(state: WorkspaceState, name: str, *, older_code: str = "redo") -> Decision:
    """Whether a stage has to run now, and why.

    Args:
        state: a fresh view of the workspace.
        name: which stage.
        older_code: what happens to finished work of another version of this software: redo it, or keep it.
    """
    stage = GRAPH[name]
    absent = [i for i in stage.inputs if i not in OPTIONAL_INPUTS and not digest(state, i)]
    if absent:
        return Decision(name, "wait", f"needs {', '.join(absent)}, which {maker(absent[0])} makes")
    record = last_record(state, stage)
    if record is None:
        return Decision(name, "run", "it has not run in this workspace")
    if record.state != "finished":
        how = {"failed": "failed", "interrupted": "was interrupted"}.get(record.state, "was cut off")
        progress = f" after {record.done} of {record.total}" if record.total else ""
        return Decision(name, "resume", f"its last run {how}{progress}")
    reason = _changed(state, stage, record)
    if reason:
        return Decision(name, "run", reason)
    if record.software != __version__ and older_code == "redo":
        return Decision(name, "run", f"drasclr {record.software} made it, this is {__version__}", redo=True)
    if not record.complete:
        return Decision(name, "resume", "its last run left something undone that may succeed now")
    note = "" if record.sources == sources_digest() else "; its sources were edited since"
    return Decision(
        name, "skip", f"inputs, settings and code as on {record.ended[:16].replace('T', ' ')}{note}"
    )


def _changed(state: WorkspaceState, stage: Stage, record: Record) -> str:
    settings, before = stage.settings_in(state.recipe), stage.effective(record.settings, state.recipe)
    for key in sorted({*settings, *before}):
        if settings.get(key) != before.get(key):
            return f"{key} changed from {before.get(key)} to {settings.get(key)}"
    # A stage that was given no cohort keeps what it made of the one before.
    inputs = {
        key: value for key, value in input_digests(state, stage).items() if value or key not in COHORT_INPUTS
    }
    changed = [key for key, value in inputs.items() if value != record.inputs.get(key)]
    if changed:
        return f"{', '.join(changed)} changed"
    if record.left_out:
        return ""
    gone = [name for name in stage.outputs if not digest(state, name)]
    return f"{', '.join(gone)} of its last run is gone" if gone else ""
