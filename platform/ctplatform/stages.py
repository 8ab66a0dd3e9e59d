"""The stages of the chain as a graph: what each reads and writes, and whether it has to run.

A stage is skipped when its inputs, its settings and the version of the code are those of its last finished run and its
outputs are there. Otherwise it runs, and does only what of its work is missing: every stage knows its finished scans,
checkpoints, groups and trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ctplatform import __version__
from ctplatform.config import Recipe, config_hash
from ctplatform.errors import StageError
from ctplatform.plan import HARDWARE as PREPARE_HARDWARE
from ctplatform.pretrain import HARDWARE
from ctplatform.records import Record, read_record, sources_digest
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

#: Cohort columns that say which scan, not what is known of the patient.
IDENTITY = ("scan_id", "subject_id", "path", "series_uid")


#: What a stage may do without: a cohort that is not given again, results where nobody has labels.
OPTIONAL = ("scans", "labels", "results")


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


class World:
    """The state of a workspace as one assessment sees it; everything is read once.

    Args:
        workspace: with whatever is there.
        cohort: the scan table, labels beside; empty where a stage needs none.
        recipe: how.
    """

    def __init__(self, workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe) -> None:
        self.workspace, self.cohort, self.recipe = workspace, cohort, recipe

    @cached_property
    def ledger(self) -> pd.DataFrame | None:
        """State and hashes of every scan; None before the first one."""
        from ctplatform.ledger import read_ledger

        try:
            columns = ["scan_id", "subject_id", "state", "code", "content_hash", "config_hash", "atlas_hash"]
            return read_ledger(self.workspace, columns=columns)
        except StageError:
            return None

    @cached_property
    def run(self) -> str:
        """Name of the recipe's training run; empty as long as it is not known what it would train on."""
        from ctplatform.pretrain import run_name

        try:
            return run_name(self.workspace, self.recipe)
        except StageError:
            return ""

    def digest(self, name: str) -> str:
        """Twelve hex digits of an input or output; empty if it is not there."""
        return getattr(self, f"_{name}")

    @cached_property
    def _scans(self) -> str:
        from ctplatform.plan import fingerprint

        if self.cohort.empty:
            return ""
        rows = [
            [str(row.get(name) or "") for name in IDENTITY] + [fingerprint(str(row["path"]))]
            for row in self.cohort.to_dict("records")
        ]
        return config_hash({"scans": sorted(rows)})

    @cached_property
    def _labels(self) -> str:
        from ctplatform.cohort import names_label_maps
        from ctplatform.plan import fingerprint

        labels = self.cohort[[name for name in self.cohort if name not in IDENTITY[2:]]]
        # Of a label map counts what it is, not where.
        maps = [name for name in labels if names_label_maps(labels[name].tolist())]
        labels = labels.assign(
            **{n: [fingerprint(v) if isinstance(v, str) else "" for v in labels[n]] for n in maps}
        )
        return config_hash(labels.sort_values("scan_id").to_csv(index=False)) if len(labels) else ""

    @cached_property
    def _atlas(self) -> str:
        from ctplatform.atlas import FOLDER, STAGE_FILE

        if not self.workspace.exists(FOLDER, STAGE_FILE):
            return ""
        return str(self.workspace.read_json(FOLDER, STAGE_FILE)["hash"])[:12]

    @cached_property
    def _ledger(self) -> str:
        if self.ledger is None:
            return ""
        return config_hash(self.ledger.fillna("").to_csv(index=False))

    @cached_property
    def _patches(self) -> str:
        from ctplatform.shards import FOLDER

        names = self.workspace.files(FOLDER, suffix=".parquet")
        return config_hash("|".join(names)) if names else ""

    @cached_property
    def _split(self) -> str:
        from ctplatform.splits import FILE

        return self._content(FILE)

    @cached_property
    def _weights(self) -> str:
        from ctplatform.pretrain import CARD_FILE, FOLDER

        return self._content(FOLDER, self.run, CARD_FILE) if self.run else ""

    @cached_property
    def _embeddings(self) -> str:
        from ctplatform.embed import FOLDER

        names = [f"patients-{encoder}.parquet" for encoder in self.recipe.embed.encoders]
        parts = [self._content(FOLDER, self.run, name) if self.run else "" for name in names]
        return config_hash("|".join(parts)) if all(parts) else ""

    @cached_property
    def _results(self) -> str:
        return self._content("evaluation", self.run, "summary.parquet") if self.run else ""

    @cached_property
    def _report(self) -> str:
        return self._content("evaluation", self.run, "report.html") if self.run else ""

    def _content(self, *parts: str) -> str:
        if not self.workspace.exists(*parts):
            return ""
        return config_hash(self.workspace.read_bytes(*parts).hex())

    def settings(self, stage: Stage) -> dict[str, Any]:
        """The recipe's values that the stage's result depends on, by dotted key."""
        plain = self.recipe.model_dump(mode="json")
        found: dict[str, Any] = {}
        for path in stage.settings:
            if path == "prepare.lungs" and self.recipe.atlas.source != "build":
                continue  # a given atlas does not depend on how lungs are masked
            value: Any = plain
            for part in path.split("."):
                value = value[part]
            found.update(_flatten(path, value))
        aside = tuple(f"{key}." for key in stage.hardware)
        return {key: value for key, value in found.items() if not f"{key}.".startswith(aside)}

    def inputs(self, stage: Stage) -> dict[str, str]:
        """Digest of everything that the stage reads."""
        return {name: self.digest(name) for name in stage.inputs}

    def record(self, stage: Stage) -> Record | None:
        """The stage's last run, if there was one."""
        if stage.of_run and not self.run:
            return None
        return read_record(self.workspace, stage.name, self.run if stage.of_run else "")


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


def _flatten(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(_flatten(f"{prefix}.{key}", inner))
    return found


def downstream(name: str) -> tuple[str, ...]:
    """The stages that read, directly or not, what this one writes; in order."""
    changed = set(GRAPH[name].outputs)
    found = []
    for stage in GRAPH.values():
        if changed & set(stage.inputs):
            changed |= set(stage.outputs)
            found.append(stage.name)
    return tuple(found)
