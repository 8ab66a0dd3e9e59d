"""The chain: cohort -> atlas -> prepare -> split -> pretrain -> embed -> sweep -> report.

Before a stage runs it is assessed (see `stages`): one whose inputs, settings and code are unchanged is skipped, one
that was cut off goes on where it stopped. So the same call is also what resumes, repairs and extends a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ctplatform.config import Recipe
from ctplatform.errors import StageError
from ctplatform.metrics import Meter
from ctplatform.postmortem import write_bundle
from ctplatform.records import Record, now, sources_digest, write_record
from ctplatform.shortage import explained
from ctplatform.stages import GRAPH, STAGES, Verdict, World, assess
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

RECORD_EVERY_S = 10.0


class Watcher(Protocol):
    """Whoever shows what the chain does."""

    def started(self, stage: str, why: str = "") -> None:
        """A stage begins, for this reason."""

    def skipped(self, stage: str, why: str) -> None:
        """A stage has nothing to do."""

    def progress(self, stage: str, done: int, total: int, text: str = "") -> None:
        """So much of it is done."""

    def told(self, stage: str, lines: Sequence[str]) -> None:
        """What it is about to do, and why."""

    def finished(self, stage: str, text: str, seconds: float) -> None:
        """A stage ended well; one line on what came out."""


@dataclass
class Outcome:
    """What a run of the chain left behind: the run's name, each stage's verdict, summary and seconds."""

    workspace: Workspace
    run: str = ""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    summaries: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def run_chain(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    watcher: Watcher,
    *,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    redo: Collection[str] = (),
    older_code: str = "redo",
) -> Outcome:
    """Run what has to run of the stages from `first` to `last`; Ray must be connected.

    Args:
        workspace: where everything goes.
        cohort: the checked scan table, labels beside.
        recipe: how.
        watcher: is told of progress.
        first: earlier stages are taken as done.
        last: where to stop.
        redo: stages whose finished work is made again.
        older_code: "redo" or "keep" finished work that another version of this software made.

    Raises:
        StageError: a stage cannot run; what came before it is kept, and a post-mortem is in the workspace.
    """
    outcome, meter = Outcome(workspace), Meter(watcher)
    for stage in STAGES[STAGES.index(first) : STAGES.index(last) + 1]:
        world = World(workspace, cohort, recipe)
        verdict = assess(world, stage, older_code=older_code)
        if stage in redo and verdict.action != "wait":
            verdict = Verdict(stage, "run", "it was asked to be made again", redo=True)
        outcome.verdicts[stage] = verdict
        if GRAPH[stage].of_run and world.run:
            outcome.run = world.run
        if verdict.action == "skip":
            watcher.skipped(stage, verdict.why)
            continue
        if verdict.redo:
            _discard(world, stage)
            world = World(workspace, cohort, recipe)
        _run_stage(world, verdict, meter, outcome, last=stage == last)
    return outcome


def _run_stage(world: World, verdict: Verdict, meter: Meter, outcome: Outcome, *, last: bool) -> None:
    """Run one stage, its record kept up to date; a failure leaves a post-mortem."""
    name, start = verdict.stage, time.monotonic()
    stage = GRAPH[name]
    record = Record(
        stage=name,
        state="running",
        settings=world.settings(stage),
        inputs=world.inputs(stage),
        sources=sources_digest(),
        started=now(),
        job=os.environ.get("RAY_JOB_ID", ""),
        run=world.run if stage.of_run else "",
    )
    keeper, watcher = _Keeper(world.workspace, record, meter), meter.watcher
    watcher.started(name, verdict.why)
    try:
        keeper.write()
        try:
            summary, text = _RUNNERS[name](world.workspace, world.cohort, world.recipe, keeper, outcome)
        except StageError as missing:
            # Scans without labels still deserve their encoder, embeddings and quality report.
            if missing.code != "no-labels" or last:
                raise
            summary, text = None, f"left out: {missing}"
    except BaseException as raised:
        seconds, error = time.monotonic() - start, explained(raised)
        if error is not raised:
            error.__cause__ = raised
        problem = str(error) or type(error).__name__
        keeper.end(keeper.record.ended_as("failed", seconds=seconds, text=problem[:2000], complete=False))
        write_bundle(world.workspace, world.cohort, world.recipe, name, error)
        if error is raised:
            raise
        raise error from raised
    seconds = time.monotonic() - start
    complete = _complete(name, world.workspace, world.recipe, summary)
    keeper.end(keeper.record.ended_as("finished", seconds=seconds, text=text, complete=complete))
    outcome.summaries[name], outcome.seconds[name] = summary, seconds
    watcher.finished(name, text, seconds)


class _Keeper:
    """Passes progress on, and writes it into the stage's record now and then."""

    def __init__(self, workspace: Workspace, record: Record, meter: Meter) -> None:
        self.workspace, self.record, self.meter = workspace, record, meter
        # Without a training run's name there is nothing yet that the record could belong to.
        self.kept = bool(record.run) or not GRAPH[record.stage].of_run
        self._written = 0.0

    def write(self) -> None:
        """Write the record as it is."""
        if self.kept:
            write_record(self.workspace, self.record)
            self._written = time.monotonic()

    def end(self, record: Record) -> None:
        """The last word on this stage; a workspace that cannot be written must not hide why a stage failed."""
        self.record = record
        try:
            self.write()
        except (OSError, StageError):
            if record.state != "failed":
                raise

    def told(self, stage: str, lines: Sequence[str]) -> None:
        """As a watcher's."""
        self.meter.watcher.told(stage, lines)

    def progress(self, stage: str, done: int, total: int, text: str = "", **measures: float) -> None:
        """As a watcher's."""
        self.record = replace(self.record, done=done, total=total)
        self.meter.progress(stage, done, total, text, **measures)
        if time.monotonic() - self._written > RECORD_EVERY_S:
            self.write()


def _complete(stage: str, workspace: Workspace, recipe: Recipe, summary: Any) -> bool:
    """Whether a second run could not do more."""
    if stage == "prepare":
        from ctplatform.ledger import read_ledger
        from ctplatform.plan import TRANSIENT

        return not read_ledger(workspace, columns=["code"])["code"].isin(TRANSIENT).any()
    if stage == "sweep" and summary:
        return not any(message.startswith("trial ") for message in summary.messages)
    return True


def _discard(world: World, stage: str) -> None:
    """Take away what says that a stage's work is finished, so that it is made again."""
    workspace, run = world.workspace, world.run
    if stage == "atlas":
        from ctplatform.atlas import FOLDER, STAGE_FILE

        workspace.delete(FOLDER, STAGE_FILE)
    elif stage == "prepare":
        from ctplatform.ledger import FOLDER

        workspace.delete(FOLDER)
    elif stage == "pretrain" and run:
        from ctplatform.pretrain import CARD_FILE, FOLDER, WEIGHTS_FILE

        if workspace.exists(
            FOLDER, run, CARD_FILE
        ):  # trained weights are dear: they stay, under a name of their own
            kept = f"{run}-before-{now().replace(':', '').replace('-', '')}"
            for name in (WEIGHTS_FILE, CARD_FILE):
                workspace.write_bytes(workspace.read_bytes(FOLDER, run, name), FOLDER, kept, name)
        workspace.delete(FOLDER, run)
    elif stage == "embed" and run:
        workspace.delete("embeddings", run)
    elif stage == "sweep" and run:
        workspace.delete("evaluation", run)
    # A split is never drawn again: subjects would change sides under weights that have seen them.


def _atlas(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: _Keeper, _: Outcome
) -> tuple[Any, str]:
    from ctplatform.atlas import atlas

    made = atlas(ws, cohort, recipe, on_progress=lambda done, total: watcher.progress("atlas", done, total))
    source = f"mean of {made['scans']} lung masks" if made["scans"] else f"given: {recipe.atlas.source}"
    kept = "" if made["made"] else ", unchanged"
    return made, f"{made['locations']} locations ({source}{kept})"


def _prepare(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: _Keeper, _: Outcome
) -> tuple[Any, str]:
    from ctplatform.prepare import prepare

    summary = prepare(
        ws,
        cohort,
        recipe,
        on_plan=lambda plan: watcher.told("prepare", plan.lines()),
        on_progress=lambda done, total: watcher.progress("prepare", done, total),
    )
    counts = ", ".join(f"{count} {state}" for state, count in summary.counts.items() if count)
    kept = f"; {summary.skipped} done before" if summary.skipped else ""
    return summary, f"{counts}{kept}"


def _split(ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, _: _Keeper, __: Outcome) -> tuple[Any, str]:
    split = ensure_split(ws, cohort, recipe)
    return split, f"{len(split.train)} training and {len(split.test)} test subjects"


def _pretrain(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: _Keeper, outcome: Outcome
) -> tuple[Any, str]:
    from ctplatform.ablations import ablated
    from ctplatform.pretrain import pretrain
    from ctplatform.watch import summarised

    def show(m: dict[str, Any]) -> None:
        watcher.progress("pretrain", int(m["step"]), int(m["total_steps"]), summarised(m), **m)

    summary = pretrain(ws, recipe, cohort=cohort, on_progress=show)
    outcome.run = summary.run
    for name in recipe.sweep.ablations:
        pretrain(ws, ablated(recipe, name), cohort=cohort, on_progress=show)
    kept = "" if summary.trained else ", trained before"
    more = f"; ablations {', '.join(recipe.sweep.ablations)}" if recipe.sweep.ablations else ""
    return summary, f"{summary.steps} steps, loss {summary.metrics.get('loss', float('nan')):.2f}{kept}{more}"


def _embed(
    ws: Workspace, _: pd.DataFrame, recipe: Recipe, watcher: _Keeper, outcome: Outcome
) -> tuple[Any, str]:
    from ctplatform.ablations import ablated, ablation_runs
    from ctplatform.embed import embed

    def show(done: int, total: int) -> None:
        watcher.progress("embed", done, total)

    summary = embed(ws, recipe, run=_run(ws, recipe, outcome), on_progress=show)
    for name in recipe.sweep.ablations:
        embed(ws, ablated(recipe, name), run=ablation_runs(ws, recipe)[name], on_progress=show)
    return summary, f"{summary.scans} scans, encoders {', '.join(summary.encoders)}"


def _sweep(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: _Keeper, outcome: Outcome
) -> tuple[Any, str]:
    from ctplatform.dashboards import places
    from ctplatform.session import dashboard_address
    from ctplatform.sweep import sweep
    from ctplatform.watch import tracking_uri

    run = _run(ws, recipe, outcome)
    mlflow = tracking_uri(recipe.watch)
    watcher.told("sweep", places(ws, recipe, run, ray=dashboard_address(), mlflow=mlflow))
    summary = sweep(
        ws,
        cohort,
        recipe,
        run=run,
        on_progress=lambda done, total, text="": watcher.progress("sweep", done, total, text),
    )
    return summary, str(summary)


def _report(ws: Workspace, _: pd.DataFrame, recipe: Recipe, __: _Keeper, outcome: Outcome) -> tuple[Any, str]:
    from ctplatform.report import build_report

    paths = build_report(ws, recipe, run=_run(ws, recipe, outcome))
    return paths, paths.html


_RUNNERS = {
    "atlas": _atlas,
    "prepare": _prepare,
    "split": _split,
    "pretrain": _pretrain,
    "embed": _embed,
    "sweep": _sweep,
    "report": _report,
}


def ensure_split(workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe) -> Any:
    """The stored split; made, or grown by new subjects, from the usable scans."""
    from ctplatform import ledger, splits
    from ctplatform.duplicates import near_duplicates

    rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=recipe.prepare.quality.use_flagged)
    extra = [c for c in cohort.columns if c == "scan_id" or c not in rows.columns]
    table = rows.merge(cohort[extra], on="scan_id", how="left")
    previous = splits.read_split(workspace) if workspace.exists(splits.FILE) else None
    if previous and set(table["subject_id"]) <= {*previous.train, *previous.test}:
        return previous
    similar = near_duplicates(workspace, rows, alike_above=recipe.split.alike_above)
    split = splits.make_split(table, recipe.split, previous=previous, similar=similar)
    splits.write_split(workspace, split)
    return split


def _run(workspace: Workspace, recipe: Recipe, outcome: Outcome) -> str:
    """The run that later stages work on: this chain's, else the one that the recipe names."""
    if not outcome.run:
        from ctplatform.pretrain import CARD_FILE, FOLDER, run_name

        outcome.run = run_name(workspace, recipe)
        if not workspace.exists(FOLDER, outcome.run, CARD_FILE):
            raise StageError(
                f"this recipe's run {outcome.run} is not trained",
                "Run `drasclr pretrain` with the same recipe first",
                code="missing",
            )
    return outcome.run
