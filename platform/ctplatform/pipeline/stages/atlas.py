"""Stage `atlas`: the lung-mask template and its grid of locations, built from the cohort or taken as given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.pipeline.stage import Stage, StageResult
from ctplatform.storage.layout import ATLAS, ATLAS_STAGE_FILE

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.pipeline.costs import Costs, Size, Work
    from ctplatform.pipeline.recorder import Recorder
    from ctplatform.pipeline.state import WorkspaceState


def _run(state: WorkspaceState, recorder: Recorder) -> StageResult:
    from ctplatform.preparation.atlas import atlas

    made = atlas(state.workspace, state.cohort, state.recipe, on_progress=recorder.progress)
    source = f"mean of {made['scans']} lung masks" if made["scans"] else f"given: {state.recipe.atlas.source}"
    kept = "" if made["made"] else ", unchanged"
    return StageResult(made, f"{made['locations']} locations ({source}{kept})")


def _digest(state: WorkspaceState) -> str:
    if not state.workspace.exists(ATLAS, ATLAS_STAGE_FILE):
        return ""
    return str(state.workspace.read_json(ATLAS, ATLAS_STAGE_FILE)["hash"])[:12]


def _cost(recipe: Recipe, size: Size, costs: Costs) -> Work:
    from ctplatform.pipeline.costs import Work

    given = size.atlas_done or recipe.atlas.source != "build"
    scans = 0 if given else min(size.scans, recipe.atlas.max_scans)
    hours = scans * costs.prepare_s * recipe.atlas.iterations / 3600
    return Work("atlas", scans, "scans", hours, basis=costs.prepare_basis)


def _unused(recipe: Recipe) -> tuple[str, ...]:
    """A given atlas does not depend on how lungs are masked."""
    return () if recipe.atlas.source == "build" else ("prepare.lungs",)


def _discard(state: WorkspaceState) -> None:
    state.workspace.delete(ATLAS, ATLAS_STAGE_FILE)


STAGE = Stage(
    name="atlas",
    help="Make the workspace's atlas: a mean of the cohort's lung masks, or a given one.",
    run=_run,
    inputs=(),
    outputs={"atlas": _digest},
    settings=("atlas", "prepare.lungs"),
    unused=_unused,
    cost=_cost,
    discard=_discard,
)
