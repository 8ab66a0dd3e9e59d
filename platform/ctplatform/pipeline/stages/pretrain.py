"""Stage `pretrain`: the encoder, and those of the sweep's ablations, from the training subjects' patches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ctplatform.config.hardware import PRETRAINING, without_effect
from ctplatform.pipeline.stage import Stage, StageResult
from ctplatform.storage.layout import PRETRAIN, WEIGHTS_FOLDER, card

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.pipeline.costs import Costs, Size, Work
    from ctplatform.pipeline.recorder import Recorder
    from ctplatform.pipeline.state import WorkspaceState


def _run(state: WorkspaceState, recorder: Recorder) -> StageResult:
    from ctplatform.config.ablations import ablated
    from ctplatform.tracking.pretraining import summarised
    from ctplatform.training import collapse
    from ctplatform.training.pretrain import pretrain

    workspace, recipe = state.workspace, state.recipe
    collapsed = False

    def show(line: dict[str, Any]) -> None:
        nonlocal collapsed
        recorder.progress(int(line["step"]), int(line["total_steps"]), summarised(line), **line)
        if line.get("collapsed") and not collapsed and (found := collapse.signs([line], window=1)):
            recorder.announced([f"warning: {collapse.message(found, recipe.pretrain)}."])
        collapsed = bool(line.get("collapsed"))

    summary = pretrain(workspace, recipe, cohort=state.cohort, on_progress=show)
    for name in recipe.sweep.ablations:
        pretrain(workspace, ablated(recipe, name), cohort=state.cohort, on_progress=show)
    kept = "" if summary.trained else ", trained before"
    more = f"; ablations {', '.join(recipe.sweep.ablations)}" if recipe.sweep.ablations else ""
    if start := summary.initial:
        more += f"; from {start['source']}: kept {', '.join(start['kept'])}; new {', '.join(start['new'])}"
    if best := summary.selection:
        more += f"; published: step {best['step']}, the best of {best['probes']} probes"
    loss = summary.metrics.get("loss", float("nan"))
    end = ", collapsed" if summary.metrics.get("collapsed") else ""
    return StageResult(summary, f"{summary.steps} steps, loss {loss:.2f}{end}{kept}{more}", run=summary.run)


def _digest(state: WorkspaceState) -> str:
    return state.file_digest(*card(state.run)) if state.run else ""


def steps_in_all(recipe: Recipe, size: Size) -> tuple[int, int]:
    """(optimiser steps of the whole pretraining, of one epoch)."""
    config = recipe.pretrain
    batch = max(1, min(config.scans_per_batch, size.training_scans))
    blocks = max(1, round(size.locations / recipe.atlas.block_size))
    a_block = math.ceil(size.locations / blocks / config.locations_per_batch)
    epoch = max(1, math.ceil(size.training_scans / batch) * blocks * a_block)
    planned = config.epochs * epoch
    return min(planned, config.max_steps or planned), epoch


def _cost(recipe: Recipe, size: Size, costs: Costs) -> Work:
    from ctplatform.pipeline.costs import Work

    steps, epoch = steps_in_all(recipe, size)
    steps = max(0, steps - size.steps_done)
    anchors = round(steps / epoch * size.training_scans * size.locations)
    read = steps / epoch * size.training_scans * size.scan_bytes(costs)
    if recipe.pretrain.use_gpu:
        rate = costs.gpu_anchors_per_s
        hours = anchors / rate / 3600 if rate else None
        return Work("pretrain", anchors, "anchors", 0.0, hours, read, basis=costs.gpu_remark + size.remark)
    hours = anchors * costs.anchor_s / 3600
    return Work(
        "pretrain", anchors, "anchors", hours, read_bytes=read, basis=costs.anchor_basis + size.remark
    )


def _unused(recipe: Recipe) -> tuple[str, ...]:
    return tuple(f"pretrain.{key}" for key in sorted(without_effect(recipe.pretrain) - PRETRAINING))


def _discard(state: WorkspaceState) -> None:
    """Trained weights are expensive: they stay, in a folder of their own."""
    from ctplatform.pipeline.records import now

    workspace, run = state.workspace, state.run
    if not run:
        return
    if workspace.exists(*card(run)):
        kept = f"{run}-before-{now().replace(':', '').replace('-', '')}"
        there = set(workspace.files(PRETRAIN, run))
        for name in filter(there.__contains__, WEIGHTS_FOLDER):
            workspace.write_bytes(workspace.read_bytes(PRETRAIN, run, name), PRETRAIN, kept, name)
    workspace.delete(PRETRAIN, run)


STAGE = Stage(
    name="pretrain",
    help="Pretrain the encoder on the training subjects' patches.",
    run=_run,
    inputs=("atlas", "ledger", "patches", "split"),
    outputs={"weights": _digest},
    settings=("pretrain", "prepare.quality.use_flagged"),
    hardware=tuple(f"pretrain.{key}" for key in sorted(PRETRAINING)),
    unused=_unused,
    of_run=True,
    cost=_cost,
    discard=_discard,
)
