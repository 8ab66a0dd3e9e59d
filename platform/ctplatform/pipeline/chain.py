"""The chain: cohort -> atlas -> prepare -> split -> pretrain -> embed -> sweep -> report.

Before a stage runs it is assessed (see `stages`): one whose inputs, settings and code are unchanged is skipped, one
that was cut off goes on where it stopped. So the same call is also what resumes, repairs and extends a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ctplatform.compute.failures import explained
from ctplatform.config.recipe import Recipe
from ctplatform.dataset.splits import ensure_split
from ctplatform.errors import StageError
from ctplatform.pipeline.graph import GRAPH, STAGES, assess
from ctplatform.pipeline.postmortem import write_bundle
from ctplatform.pipeline.progress import Outcome, Watcher
from ctplatform.pipeline.prometheus import Meter
from ctplatform.pipeline.recorder import _Keeper
from ctplatform.pipeline.records import Record, now, sources_digest
from ctplatform.pipeline.stage import Verdict
from ctplatform.pipeline.state import World, _run
from ctplatform.storage.layout import (
    ATLAS,
    ATLAS_STAGE_FILE,
    CARD_FILE,
    EMBEDDINGS,
    EVALUATION,
    PRETRAIN,
    SCANS,
    WEIGHTS_FILE,
)
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


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


def _complete(stage: str, workspace: Workspace, recipe: Recipe, summary: Any) -> bool:
    """Whether a second run could not do more."""
    if stage == "prepare":
        from ctplatform.dataset.ledger import read_ledger
        from ctplatform.preparation.plan import TRANSIENT

        return not read_ledger(workspace, columns=["code"])["code"].isin(TRANSIENT).any()
    if stage == "sweep" and summary:
        return not any(message.startswith("trial ") for message in summary.messages)
    return True


def _discard(world: World, stage: str) -> None:
    """Take away what says that a stage's work is finished, so that it is made again."""
    workspace, run = world.workspace, world.run
    if stage == "atlas":
        workspace.delete(ATLAS, ATLAS_STAGE_FILE)
    elif stage == "prepare":
        workspace.delete(SCANS)
    elif stage == "pretrain" and run:
        if workspace.exists(
            PRETRAIN, run, CARD_FILE
        ):  # trained weights are dear: they stay, under a name of their own
            kept = f"{run}-before-{now().replace(':', '').replace('-', '')}"
            for name in (WEIGHTS_FILE, CARD_FILE):
                workspace.write_bytes(workspace.read_bytes(PRETRAIN, run, name), PRETRAIN, kept, name)
        workspace.delete(PRETRAIN, run)
    elif stage == "embed" and run:
        workspace.delete(EMBEDDINGS, run)
    elif stage == "sweep" and run:
        workspace.delete(EVALUATION, run)
    # A split is never drawn again: subjects would change sides under weights that have seen them.


def _atlas(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: _Keeper, _: Outcome
) -> tuple[Any, str]:
    from ctplatform.preparation.atlas import atlas

    made = atlas(ws, cohort, recipe, on_progress=lambda done, total: watcher.progress("atlas", done, total))
    source = f"mean of {made['scans']} lung masks" if made["scans"] else f"given: {recipe.atlas.source}"
    kept = "" if made["made"] else ", unchanged"
    return made, f"{made['locations']} locations ({source}{kept})"


def _prepare(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: _Keeper, _: Outcome
) -> tuple[Any, str]:
    from ctplatform.preparation.prepare import prepare

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
    from ctplatform.config.ablations import ablated
    from ctplatform.tracking.pretraining import summarised
    from ctplatform.training.pretrain import pretrain

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
    from ctplatform.config.ablations import ablated
    from ctplatform.inference.embed import embed
    from ctplatform.training.runs import ablation_runs

    def show(done: int, total: int) -> None:
        watcher.progress("embed", done, total)

    summary = embed(ws, recipe, run=_run(ws, recipe, outcome), on_progress=show)
    for name in recipe.sweep.ablations:
        embed(ws, ablated(recipe, name), run=ablation_runs(ws, recipe)[name], on_progress=show)
    return summary, f"{summary.scans} scans, encoders {', '.join(summary.encoders)}"


def _sweep(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: _Keeper, outcome: Outcome
) -> tuple[Any, str]:
    from ctplatform.compute.session import dashboard_address
    from ctplatform.evaluation.dashboards import places
    from ctplatform.evaluation.sweep import sweep
    from ctplatform.tracking.uri import tracking_uri

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
