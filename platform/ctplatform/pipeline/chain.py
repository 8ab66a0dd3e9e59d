"""The chain: cohort -> atlas -> prepare -> split -> pretrain -> embed -> sweep -> report.

Before a stage runs it is assessed (see `assessment`): one whose inputs, settings and code are unchanged is skipped, one
that was cut off is resumed. So the same call is also what resumes, repairs and extends a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from ctplatform.compute.failures import explained
from ctplatform.compute.interruption import on_interrupt, requested
from ctplatform.config.recipe import Recipe
from ctplatform.errors import PlatformError, RestartRequested, StageError
from ctplatform.pipeline.assessment import assess, input_digests
from ctplatform.pipeline.graph import GRAPH, STAGES, between
from ctplatform.pipeline.postmortem import scrubber, write_bundle
from ctplatform.pipeline.progress import Decision, Observer, Outcome
from ctplatform.pipeline.prometheus import Meter
from ctplatform.pipeline.recorder import Recorder
from ctplatform.pipeline.records import Record, now, sources_digest
from ctplatform.pipeline.stage import StageResult
from ctplatform.pipeline.state import WorkspaceState
from ctplatform.storage.lease import Lease
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def run_chain(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    observer: Observer,
    *,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    redo: Collection[str] = (),
    older_code: str = "redo",
    take_over: bool = False,
) -> Outcome:
    """Run what has to run of the stages from `first` to `last`; Ray must be connected.

    Args:
        workspace: where everything goes.
        cohort: the checked scan table, labels beside.
        recipe: of the run.
        observer: receives progress.
        first: earlier stages are taken as done.
        last: where to stop.
        redo: stages whose finished work is made again.
        older_code: "redo" or "keep" finished work that another version of this software made.
        take_over: take stale leases of other processes.

    Raises:
        StageError: a stage cannot run; what came before it is kept, and a post-mortem is in the workspace. Or another
            process works on the same part of the workspace.
        RestartRequested: this process was requested to stop; the same call goes on.
    """
    outcome, meter = Outcome(workspace), Meter(observer)
    for name in between(first, last):
        stage, state = GRAPH[name], WorkspaceState(workspace, cohort, recipe)
        decision = assess(state, name, older_code=older_code)
        if name in redo and decision.action != "wait":
            decision = Decision(name, "run", "it is to be made again", redo=True)
        outcome.decisions[name] = decision
        if stage.of_run and state.run:
            outcome.run = state.run
        if decision.action == "skip":
            observer.skipped(name, decision.why)
            continue
        lease = Lease(workspace, state.run if stage.of_run else "", take_over=take_over)
        try:
            with lease:
                if decision.redo:
                    if stage.discard:
                        stage.discard(state)
                    state = WorkspaceState(workspace, cohort, recipe)
                _run_stage(state, decision, meter, outcome, last=name == last)
        except KeyboardInterrupt:
            if not lease.lost:
                raise
            raise StageError(
                f"another process took over {lease.what}",
                "See which: it goes on with this work",
                code="in-use",
            ) from None
    return outcome


def _run_stage(
    state: WorkspaceState, decision: Decision, meter: Meter, outcome: Outcome, *, last: bool
) -> None:
    """Run one stage, its record kept up to date; a failure leaves a post-mortem."""
    name, start = decision.stage, time.monotonic()
    stage = GRAPH[name]
    record = Record(
        stage=name,
        state="running",
        settings=stage.settings_in(state.recipe),
        inputs=input_digests(state, stage),
        sources=sources_digest(),
        started=now(),
        job=os.environ.get("RAY_JOB_ID", ""),
        run=state.run if stage.of_run else "",
    )
    recorder = Recorder(state.workspace, record, meter, stored=bool(state.run) or not stage.of_run)
    meter.observer.started(name, decision.why)
    left_out = False
    try:
        recorder.write()
        try:
            with on_interrupt(partial(_interrupted, recorder, start)):
                result = stage.run(state, recorder)
        except StageError as missing:
            # Scans without labels still deserve their encoder, embeddings and quality report.
            if missing.code != "no-labels" or last:
                raise
            result, left_out = StageResult(None, f"left out: {missing}"), True
    except BaseException as raised:
        if isinstance(raised, KeyboardInterrupt) or (isinstance(raised, SystemExit) and requested()):
            _interrupted(recorder, start)
            raise KeyboardInterrupt from None
        seconds, error = time.monotonic() - start, explained(raised)
        if error is not raised:
            error.__cause__ = raised
        problem = str(error) or type(error).__name__
        if not isinstance(error, PlatformError):  # texts of libraries may hold a path, and so a name
            problem = scrubber(state.cohort)(problem)
        stopped = isinstance(error, RestartRequested)
        recorder.end(
            recorder.record.ended_as(
                "interrupted" if stopped else "failed", seconds=seconds, text=problem[:2000], complete=False
            )
        )
        if stopped:
            raise
        write_bundle(state.workspace, state.cohort, state.recipe, name, error)
        if error is raised:
            raise
        raise error from raised
    seconds = time.monotonic() - start
    recorder.end(
        recorder.record.ended_as(
            "finished", seconds=seconds, text=result.text, complete=result.complete, left_out=left_out
        )
    )
    outcome.run = result.run or outcome.run
    outcome.summaries[name], outcome.seconds[name] = result.summary, seconds
    meter.observer.finished(name, result.text, seconds)


def _interrupted(recorder: Recorder, start: float) -> None:
    """Record that the user stopped the stage: no failure, and nothing to be explained."""
    recorder.end(
        recorder.record.ended_as(
            "interrupted", seconds=time.monotonic() - start, text="stopped by the user", complete=False
        )
    )
