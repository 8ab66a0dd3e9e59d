"""The chain: cohort -> atlas -> prepare -> split -> pretrain -> embed -> sweep -> report.

Every stage finds out by itself what of its work is done already, so the same call goes on where the last one stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ctplatform.config import Recipe
from ctplatform.errors import StageError
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

STAGES = ("atlas", "prepare", "split", "pretrain", "embed", "sweep", "report")


class Watcher(Protocol):
    """Whoever shows what the chain does."""

    def started(self, stage: str) -> None:
        """A stage begins."""

    def progress(self, stage: str, done: int, total: int, text: str = "") -> None:
        """So much of it is done."""

    def finished(self, stage: str, text: str, seconds: float) -> None:
        """A stage ended well; one line on what came out."""


@dataclass
class Outcome:
    """What a run of the chain left behind: the run's name and each stage's summary."""

    workspace: Workspace
    run: str = ""
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
) -> Outcome:
    """Run the stages from `first` to `last`; Ray must be connected.

    Args:
        workspace: where everything goes.
        cohort: the checked scan table, labels beside.
        recipe: how.
        watcher: is told of progress.
        first: earlier stages are taken as done.
        last: where to stop.

    Raises:
        StageError: a stage cannot run; what came before it is kept.
    """
    outcome = Outcome(workspace)
    for stage in STAGES[STAGES.index(first) : STAGES.index(last) + 1]:
        start = time.monotonic()
        watcher.started(stage)
        try:
            summary, text = _RUNNERS[stage](workspace, cohort, recipe, watcher, outcome)
        except StageError as error:
            # Scans without labels still deserve their encoder, embeddings and quality report.
            if error.code != "no-labels" or stage == last:
                raise
            summary, text = None, f"left out: {error}"
        outcome.summaries[stage] = summary
        outcome.seconds[stage] = time.monotonic() - start
        watcher.finished(stage, text, outcome.seconds[stage])
    return outcome


def _atlas(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: Watcher, _: Outcome
) -> tuple[Any, str]:
    from ctplatform.atlas import atlas

    made = atlas(ws, cohort, recipe, on_progress=lambda done, total: watcher.progress("atlas", done, total))
    source = f"mean of {made['scans']} lung masks" if made["scans"] else f"given: {recipe.atlas.source}"
    kept = "" if made["made"] else ", unchanged"
    return made, f"{made['locations']} locations ({source}{kept})"


def _prepare(
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: Watcher, _: Outcome
) -> tuple[Any, str]:
    from ctplatform.prepare import prepare

    summary = prepare(
        ws, cohort, recipe, on_progress=lambda done, total: watcher.progress("prepare", done, total)
    )
    counts = ", ".join(f"{count} {state}" for state, count in summary.counts.items() if count)
    kept = f"; {summary.skipped} done before" if summary.skipped else ""
    return summary, f"{counts}{kept}"


def _split(ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, _: Watcher, __: Outcome) -> tuple[Any, str]:
    split = ensure_split(ws, cohort, recipe)
    return split, f"{len(split.train)} training and {len(split.test)} test subjects"


def _pretrain(
    ws: Workspace, _: pd.DataFrame, recipe: Recipe, watcher: Watcher, outcome: Outcome
) -> tuple[Any, str]:
    from ctplatform.ablations import ablated
    from ctplatform.pretrain import pretrain

    def show(m: dict[str, Any]) -> None:
        losses = f"loss {m['loss']:.2f} (local {m['local']:.2f}, global {m['global']:.2f})"
        text = f"{losses}, {m['patches_per_s']:.0f} patches/s"
        watcher.progress("pretrain", int(m["step"]), int(m["total_steps"]), text)

    summary = pretrain(ws, recipe, on_progress=show)
    outcome.run = summary.run
    for name in recipe.sweep.ablations:
        pretrain(ws, ablated(recipe, name), on_progress=show)
    kept = "" if summary.trained else ", trained before"
    more = f"; ablations {', '.join(recipe.sweep.ablations)}" if recipe.sweep.ablations else ""
    return summary, f"{summary.steps} steps, loss {summary.metrics.get('loss', float('nan')):.2f}{kept}{more}"


def _embed(
    ws: Workspace, _: pd.DataFrame, recipe: Recipe, watcher: Watcher, outcome: Outcome
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
    ws: Workspace, cohort: pd.DataFrame, recipe: Recipe, watcher: Watcher, outcome: Outcome
) -> tuple[Any, str]:
    from ctplatform.sweep import sweep

    summary = sweep(
        ws,
        cohort,
        recipe,
        run=_run(ws, recipe, outcome),
        on_progress=lambda done, total: watcher.progress("sweep", done, total),
    )
    return summary, str(summary)


def _report(ws: Workspace, _: pd.DataFrame, recipe: Recipe, __: Watcher, outcome: Outcome) -> tuple[Any, str]:
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

    rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=recipe.prepare.quality.use_flagged)
    extra = [c for c in cohort.columns if c == "scan_id" or c not in rows.columns]
    table = rows.merge(cohort[extra], on="scan_id", how="left")
    previous = splits.read_split(workspace) if workspace.exists(splits.FILE) else None
    if previous and set(table["subject_id"]) <= {*previous.train, *previous.test}:
        return previous
    split = splits.make_split(table, recipe.split, previous=previous)
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
