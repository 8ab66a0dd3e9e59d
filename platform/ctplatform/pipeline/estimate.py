"""How much work a run is: scans, patches, core-hours, GPU-hours and bytes, from measured costs.

Costs measured in the workspace itself come first (CPU-seconds of its prepared scans, the rate of its training runs);
where there are none, those of docs/benchmarks/, which every line of an estimate says. No GPU rate is built in: it is
taken from a run of the workspace that trained on GPUs, or given.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from ctplatform.config.evaluation import SearchConfig
from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.pipeline.costs import DOCS, Costs, Size, Work
from ctplatform.storage.workspace import Workspace

PUBLISHED_LOCATIONS, PUBLISHED_STEP = 581, 26


def size_of(workspace: Workspace, recipe: Recipe, *, scans: int) -> Size:
    """What a workspace holds of a cohort of so many scans; what is not known yet is estimated (`exact` False)."""
    from ctplatform.dataset import ledger
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.preparation.plan import settings_hash
    from ctplatform.training.runs import read_metrics, run_name

    locations, atlas_done, training, prepared, steps, exact = guess_locations(recipe), False, 0, 0, 0, False
    try:
        locations, atlas_done = read_atlas(workspace).num_locations, True
        rows = ledger.read_ledger(workspace, columns=["scan_id", "state", "config_hash"])
        scans = max(scans, len(rows))
        prepared = int((rows["config_hash"] == settings_hash(recipe, read_atlas(workspace).hash)).sum())
        from ctplatform.training.runs import training_rows

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
    from ctplatform.storage.layout import CONFIG_FILE, PRETRAIN
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
        if not lines or not workspace.exists(PRETRAIN, run, CONFIG_FILE):
            continue
        config = workspace.read_json(PRETRAIN, run, CONFIG_FILE)["pretrain"]
        workers, rate = max(1, config["num_workers"]), median(float(line["patches_per_s"]) for line in lines)
        if rate <= 0:
            continue
        if config["use_gpu"]:
            costs = replace(costs, gpu_anchors_per_s=rate / workers, gpu_basis=f"run {run}")
        else:
            cores = workers * config["cpus_per_worker"]
            costs = replace(costs, anchor_s=cores / rate, anchor_basis=f"run {run}")
    return costs


def steps_in_all(recipe: Recipe, size: Size) -> tuple[int, int]:
    """(optimiser steps of the whole pretraining, of one epoch)."""
    config = recipe.pretrain
    batch = max(1, min(config.scans_per_batch, size.training_scans))
    blocks = max(1, round(size.locations / recipe.atlas.block_size))
    a_block = math.ceil(size.locations / blocks / config.locations_per_batch)
    epoch = max(1, math.ceil(size.training_scans / batch) * blocks * a_block)
    planned = config.epochs * epoch
    return min(planned, config.max_steps or planned), epoch


def work_of(stage: str, recipe: Recipe, size: Size, costs: Costs) -> Work:
    """What a stage still has to do."""
    scan_bytes = size.locations * costs.patch_bytes
    rough = "" if size.exact else "; cohort and atlas not yet known, sizes estimated"
    if stage == "atlas":
        scans = (
            0
            if size.atlas_done or recipe.atlas.source != "build"
            else min(size.scans, recipe.atlas.max_scans)
        )
        hours = scans * costs.prepare_s * recipe.atlas.iterations / 3600
        return Work(stage, scans, "scans", hours, basis=costs.prepare_basis)
    if stage == "prepare":
        scans = max(0, size.scans - size.prepared)
        return Work(
            stage,
            scans,
            "scans",
            scans * costs.prepare_s / 3600,
            written_bytes=scans * scan_bytes,
            basis=costs.prepare_basis + rough,
        )
    if stage == "pretrain":
        steps, epoch = steps_in_all(recipe, size)
        steps = max(0, steps - size.steps_done)
        config = recipe.pretrain
        anchors = round(steps / epoch * size.training_scans * size.locations)
        read = steps / epoch * size.training_scans * scan_bytes
        if config.use_gpu:
            rate = costs.gpu_anchors_per_s
            basis = (costs.gpu_basis or "no GPU rate is known: give --gpu-rate") + rough
            return Work(
                stage, anchors, "anchors", 0.0, anchors / rate / 3600 if rate else None, read, basis=basis
            )
        hours = anchors * costs.anchor_s / 3600
        return Work(stage, anchors, "anchors", hours, read_bytes=read, basis=costs.anchor_basis + rough)
    if stage == "embed":
        encoders = len(recipe.embed.encoders)
        patches = size.scans * size.locations * encoders
        read = size.scans * scan_bytes * encoders
        if recipe.embed.use_gpu:
            # A forward pass a patch; an anchor costs ten of them (three with their backward, and one).
            rate = costs.gpu_anchors_per_s
            hours_gpu = patches / (rate * 10) / 3600 if rate else None
            basis = (costs.gpu_basis or "no GPU rate is known: give --gpu-rate") + rough
            return Work(stage, patches, "patches", 0.0, hours_gpu, read, basis=basis)
        return Work(
            stage, patches, "patches", patches * costs.forward_s / 3600, read_bytes=read, basis=DOCS + rough
        )
    if stage == "sweep":
        return _sweep(recipe, size, costs)
    return Work(stage, 0, "")


def _sweep(recipe: Recipe, size: Size, costs: Costs) -> Work:
    """Trials; end-to-end ones train a network for the same steps at every fraction, and so does each configuration of
    a search, as far as successive halving lets it."""
    config = recipe.sweep
    scratch, tests = config.scratch, size.scans - size.training_scans
    hours, trials = 0.0, 0
    for fraction in config.fractions:
        subjects = max(1, round(fraction * size.training_scans))
        steps = scratch.epochs * math.ceil(size.training_scans / scratch.subjects_per_batch)
        steps = min(steps, scratch.max_steps or steps)
        batch = min(subjects, scratch.subjects_per_batch) * scratch.locations
        for initialisation in config.initialisations:
            seconds = costs.trial_s
            if initialisation in ("scratch", "finetune"):
                pool, training = min(scratch.pool, size.locations), steps * batch * costs.train_s
                seconds += training + tests * pool * costs.forward_s
                seconds += config.search.configurations * _halved(config.search) * training
            count = len(config.tasks) * config.seeds
            trials += count
            hours += count * seconds * config.cpus_per_trial / 3600
    if config.gpus_per_trial > 0:
        basis = f"{DOCS}, as if a GPU were a core: an upper bound"
        return Work("sweep", trials, "trials", hours, hours * config.gpus_per_trial, basis=basis)
    return Work("sweep", trials, "trials", hours, basis=DOCS)


def _halved(config: SearchConfig) -> float:
    """Share of all steps that a configuration is trained for on average, if every rung keeps one in `reduction`."""
    total, before, kept, rung = 0.0, 0.0, 1.0, config.grace
    while before < 1:
        total += kept * (min(rung, 1) - before)
        before, kept, rung = min(rung, 1), kept / config.reduction, rung * config.reduction
    return total


def bill(works: list[Work], *, cores: float, gpus: float, core_price: float, gpu_price: float) -> list[str]:
    """Hours on so many cores and GPUs, and their price: lines for people.

    Raises:
        StageError: a stage needs a GPU rate that nobody measured.
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
    lines = [
        f"{core_hours:.1f} core-hours and {gpu_hours:.1f} GPU-hours; stage after stage on {cores:g} cores and "
        f"{gpus:g} GPUs, all of them busy: {wall:.1f} hours"
    ]
    if core_price or gpu_price:
        price = core_hours * core_price + gpu_hours * gpu_price
        lines.append(f"at {core_price:g} a core-hour and {gpu_price:g} a GPU-hour: {price:.2f}")
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
