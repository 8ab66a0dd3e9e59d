"""How much work a run is: scans, patches, core-hours, GPU-hours and bytes, from measured costs.

Costs measured in the workspace itself come first (CPU-seconds of its prepared scans, the rate of its training runs),
then those of docs/benchmarks/; each line of an estimate names its source. There is no default for the GPU rate: it
is taken from a run of the workspace that trained on GPUs, or given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.pipeline.costs import Costs, Size, Work
from ctplatform.storage.layout import PRETRAIN, training_config
from ctplatform.storage.workspace import Workspace

PUBLISHED_LOCATIONS, PUBLISHED_STEP = 581, 26


def size_of(workspace: Workspace, recipe: Recipe, *, scans: int) -> Size:
    """How much of a cohort of so many scans a workspace holds; what is not known yet is estimated (`exact` False)."""
    from ctplatform.dataset import ledger
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.preparation.plan import settings_hash
    from ctplatform.training.runs import read_metrics, run_name, training_rows

    locations, atlas_done, training, prepared, steps, exact = guess_locations(recipe), False, 0, 0, 0, False
    try:
        locations, atlas_done = read_atlas(workspace).num_locations, True
        rows = ledger.read_ledger(workspace, columns=["scan_id", "state", "config_hash"])
        scans = max(scans, len(rows))
        prepared = int((rows["config_hash"] == settings_hash(recipe, read_atlas(workspace).hash)).sum())
        training, exact = len(training_rows(workspace, recipe)), prepared == scans
        lines = read_metrics(workspace, run_name(workspace, recipe))
        steps = int(lines[-1]["step"]) if lines else 0
    except StageError:
        pass
    training = training if exact else round(scans * (1 - recipe.split.test_fraction))
    return Size(scans, training, locations, prepared, steps, atlas_done=atlas_done, exact=exact)


def guess_locations(recipe: Recipe) -> int:
    """About how many locations an atlas of this step has: those of the published one, by volume."""
    return max(1, round(PUBLISHED_LOCATIONS * (PUBLISHED_STEP / recipe.atlas.step) ** 3))


def costs_of(workspace: Workspace, base: Costs | None = None) -> Costs:
    """Costs measured in this workspace, where it has any."""
    from ctplatform.dataset import ledger
    from ctplatform.training.runs import read_metrics

    costs = base or Costs()
    try:
        rows = ledger.read_ledger(workspace, columns=["state", "cpu_seconds", "shard_bytes", "patches"])
    except StageError:
        return costs
    rows = rows[rows["patches"] > 0]
    if len(rows):
        costs = replace(
            costs,
            prepare_s=float(rows["cpu_seconds"].mean()),
            patch_bytes=float(rows["shard_bytes"].sum() / rows["patches"].sum()),
            prepare_basis=f"{len(rows)} scans of this workspace",
        )
    for run in workspace.folders(PRETRAIN):
        lines = read_metrics(workspace, run)
        if not lines or not workspace.exists(*training_config(run)):
            continue
        config = workspace.read_json(*training_config(run))["pretrain"]
        workers, rate = max(1, config["num_workers"]), median(float(line["patches_per_s"]) for line in lines)
        if rate <= 0:
            continue
        if config["use_gpu"]:
            costs = replace(costs, gpu_anchors_per_s=rate / workers, gpu_basis=f"run {run}")
        else:
            cores = workers * config["cpus_per_worker"]
            costs = replace(costs, anchor_s=cores / rate, anchor_basis=f"run {run}")
    return costs


@dataclass(frozen=True)
class Total:
    """Work of all stages: core-hours, GPU-hours, hours from the first to the last stage, and their price."""

    core_hours: float
    gpu_hours: float
    wall_hours: float
    price: float


def total(works: list[Work], *, cores: float, gpus: float, core_price: float, gpu_price: float) -> Total:
    """Hours on so many cores and GPUs, stage after stage, all of them busy; and what they cost.

    Raises:
        StageError: a stage needs a GPU rate, and none was measured or given.
    """
    unknown = [work.stage for work in works if work.gpu_hours is None]
    if unknown:
        raise StageError(
            f"no GPU rate is known for {', '.join(unknown)}",
            "Measure one with `python -m tests.benchmarks.gpu` and give it as --gpu-rate, anchors a second and GPU",
            code="estimate",
        )
    core_hours = sum(work.core_hours for work in works)
    gpu_hours = sum(work.gpu_hours or 0.0 for work in works)
    wall = sum(max(w.core_hours / cores, (w.gpu_hours or 0.0) / gpus if gpus else 0.0) for w in works)
    return Total(core_hours, gpu_hours, wall, core_hours * core_price + gpu_hours * gpu_price)


def bill(works: list[Work], *, cores: float, gpus: float, core_price: float, gpu_price: float) -> list[str]:
    """`total` as lines of text.

    Raises:
        StageError: a stage needs a GPU rate, and none was measured or given.
    """
    found = total(works, cores=cores, gpus=gpus, core_price=core_price, gpu_price=gpu_price)
    lines = [
        f"{found.core_hours:.1f} core-hours and {found.gpu_hours:.1f} GPU-hours; stage after stage on {cores:g} cores "
        f"and {gpus:g} GPUs, all of them busy: {found.wall_hours:.1f} hours"
    ]
    if core_price or gpu_price:
        lines.append(f"at {core_price:g} a core-hour and {gpu_price:g} a GPU-hour: {found.price:.2f}")
    return lines


def table(works: list[Work]) -> list[str]:
    """One line a stage."""
    lines = [f"{'stage':<9} {'work':>22} {'core-h':>9} {'GPU-h':>9} {'read':>9} {'written':>9}  measured on"]
    for work in works:
        amount = f"{work.amount:,} {work.unit}" if work.unit else "-"
        gpu = "?" if work.gpu_hours is None else f"{work.gpu_hours:.2f}"
        lines.append(
            f"{work.stage:<9} {amount:>22} {work.core_hours:>9.2f} {gpu:>9} "
            f"{_bytes(work.read_bytes):>9} {_bytes(work.written_bytes):>9}  {work.basis or '-'}"
        )
    return lines


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} PB"
