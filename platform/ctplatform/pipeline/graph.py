"""The stages of the chain as a graph: what each reads and writes, and whether it has to run.

A stage is skipped when its inputs, its settings and the version of the code are those of its last finished run and its
outputs are there. Otherwise it runs, and does only what of its work is missing: every stage knows its finished scans,
checkpoints, groups and trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform import __version__
from ctplatform.config.hardware import HARDWARE
from ctplatform.pipeline.records import Record, sources_digest
from ctplatform.pipeline.stage import Stage, Verdict
from ctplatform.pipeline.state import World
from ctplatform.preparation.plan import HARDWARE as PREPARE_HARDWARE

if TYPE_CHECKING:
    pass


#: What a stage may do without: a cohort that is not given again, results where nobody has labels.
OPTIONAL = ("scans", "labels", "results")


GRAPH = {
    stage.name: stage
    for stage in (
        Stage("atlas", (), ("atlas",), ("atlas", "prepare.lungs")),
        Stage(
            "prepare",
            ("scans", "atlas"),
            ("ledger", "patches"),
            ("prepare",),
            hardware=tuple(f"prepare.{key}" for key in sorted(PREPARE_HARDWARE)),
        ),
        Stage("split", ("ledger", "labels"), ("split",), ("split", "prepare.quality.use_flagged")),
        Stage(
            "pretrain",
            ("atlas", "ledger", "patches", "split"),
            ("weights",),
            ("pretrain", "prepare.quality.use_flagged"),
            hardware=tuple(f"pretrain.{key}" for key in sorted(HARDWARE)),
            of_run=True,
        ),
        Stage(
            "embed",
            ("ledger", "patches", "weights"),
            ("embeddings",),
            ("embed", "prepare.quality.use_flagged"),
            hardware=("embed.num_workers", "embed.use_gpu", "embed.gpus_per_worker"),
            of_run=True,
        ),
        Stage(
            "sweep",
            ("ledger", "split", "embeddings", "labels"),
            ("results",),
            ("sweep", "pretrain.encoder", "prepare.quality.use_flagged"),
            hardware=("sweep.max_concurrent", "sweep.cpus_per_trial", "sweep.gpus_per_trial"),
            of_run=True,
        ),
        Stage(
            "report",
            ("ledger", "split", "weights", "embeddings", "results"),
            ("report",),
            ("report",),
            of_run=True,
        ),
    )
}
STAGES = tuple(GRAPH)


def assess(world: World, name: str, *, older_code: str = "redo") -> Verdict:
    """Whether a stage has to run now, and why.

    Args:
        world: a fresh view of the workspace.
        name: which stage.
        older_code: what happens to finished work of another version of this software: redo it, or keep it.
    """
    stage = GRAPH[name]
    absent = [i for i in stage.inputs if i not in OPTIONAL and not world.digest(i)]
    if absent:
        return Verdict(name, "wait", f"needs {', '.join(absent)}, which {_maker(absent[0])} makes")
    record = world.record(stage)
    if record is None:
        return Verdict(name, "run", "it has not run in this workspace")
    if record.state != "finished":
        how = "failed" if record.state == "failed" else "was cut off"
        progress = f" after {record.done} of {record.total}" if record.total else ""
        return Verdict(name, "resume", f"its last run {how}{progress}")
    reason = _changed(world, stage, record)
    if reason:
        return Verdict(name, "run", reason)
    if record.software != __version__ and older_code == "redo":
        return Verdict(name, "run", f"drasclr {record.software} made it, this is {__version__}", redo=True)
    if not record.complete:
        return Verdict(name, "resume", "its last run left something undone that may succeed now")
    note = "" if record.sources == sources_digest() else "; its sources were edited since"
    return Verdict(
        name, "skip", f"inputs, settings and code as on {record.ended[:16].replace('T', ' ')}{note}"
    )


def _changed(world: World, stage: Stage, record: Record) -> str:
    settings = world.settings(stage)
    for key in sorted({*settings, *record.settings}):
        if settings.get(key) != record.settings.get(key):
            return f"{key} changed from {record.settings.get(key)} to {settings.get(key)}"
    # A stage that was given no cohort keeps what it made of the one before.
    inputs = {
        key: value for key, value in world.inputs(stage).items() if value or key not in ("scans", "labels")
    }
    changed = [key for key, value in inputs.items() if value != record.inputs.get(key)]
    if changed:
        return f"{', '.join(changed)} changed"
    if record.text.startswith("left out"):
        return ""
    gone = [name for name in stage.outputs if not world.digest(name)]
    return f"{', '.join(gone)} of its last run is gone" if gone else ""


def _maker(artefact: str) -> str:
    return next(stage.name for stage in GRAPH.values() if artefact in stage.outputs)


def downstream(name: str) -> tuple[str, ...]:
    """The stages that read, directly or not, what this one writes; in order."""
    changed = set(GRAPH[name].outputs)
    found = []
    for stage in GRAPH.values():
        if changed & set(stage.inputs):
            changed |= set(stage.outputs)
            found.append(stage.name)
    return tuple(found)
