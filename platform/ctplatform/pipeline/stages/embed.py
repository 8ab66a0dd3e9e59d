"""Stage `embed`: vectors of all patches, scans and patients from the run's encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.pipeline.stage import Stage, StageResult
from ctplatform.storage.layout import EMBEDDINGS, patient_vectors

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.pipeline.costs import Costs, Size, Work
    from ctplatform.pipeline.recorder import Recorder
    from ctplatform.pipeline.state import WorkspaceState

FORWARD_PASSES_AN_ANCHOR = 10
"""An anchor of pretraining costs as much: three forward passes with their backward, and one without."""


def _run(state: WorkspaceState, recorder: Recorder) -> StageResult:
    from ctplatform.config.ablations import ablated
    from ctplatform.inference.embed import embed
    from ctplatform.training.runs import ablation_runs

    workspace, recipe = state.workspace, state.recipe
    summary = embed(
        workspace,
        recipe,
        run=state.required_run(),
        cohort=state.cohort,
        own=True,
        on_progress=recorder.progress,
    )
    left_out = dict(summary.left_out)
    for name in recipe.sweep.ablations:
        run = ablation_runs(workspace, recipe)[name]
        left_out |= embed(workspace, ablated(recipe, name), run=run, on_progress=recorder.progress).left_out
    text = f"{summary.scans} scans, encoders {', '.join(summary.encoders)}"
    if left_out:
        scan, reason = next(iter(left_out.items()))
        text += f"; {len(left_out)} left out, whose shards cannot be read: {scan} ({reason})"
    return StageResult(summary, text, complete=not left_out)


def _digest(state: WorkspaceState) -> str:
    from ctplatform.config.digest import config_hash

    if not state.run:
        return ""
    names = (*state.recipe.embed.encoders, *state.recipe.sweep.encoders)
    parts = [state.file_digest(*patient_vectors(state.run, name)) for name in names]
    return config_hash("|".join(parts)) if all(parts) else ""


def _cost(recipe: Recipe, size: Size, costs: Costs) -> Work:
    from ctplatform.pipeline.costs import DOCS, Work

    encoders = len(recipe.embed.encoders)
    patches = size.scans * size.locations * encoders
    read = size.scans * size.scan_bytes(costs) * encoders
    if recipe.embed.use_gpu:
        rate = costs.gpu_anchors_per_s
        hours = patches / (rate * FORWARD_PASSES_AN_ANCHOR) / 3600 if rate else None
        return Work("embed", patches, "patches", 0.0, hours, read, basis=costs.gpu_remark + size.remark)
    hours = patches * costs.forward_s / 3600
    return Work("embed", patches, "patches", hours, read_bytes=read, basis=DOCS + size.remark)


def _discard(state: WorkspaceState) -> None:
    if state.run:
        state.workspace.delete(EMBEDDINGS, state.run)


STAGE = Stage(
    name="embed",
    help="Compute patch and patient embeddings.",
    run=_run,
    inputs=("ledger", "patches", "weights"),
    outputs={"embeddings": _digest},
    settings=("embed", "sweep.encoders", "prepare.quality.use_flagged"),
    hardware=("embed.num_workers", "embed.use_gpu", "embed.gpus_per_worker"),
    of_run=True,
    cost=_cost,
    resumes_by_record=True,
    discard=_discard,
)
