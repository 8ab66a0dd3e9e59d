"""A workspace to train on that is made within a second, without Ray and images; and workers that train on it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.distributed as dist

from ctplatform.config.loader import load_recipe
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger, shards
from ctplatform.dataset.atlas import image_to_bytes
from ctplatform.dataset.splits import Split, write_split
from ctplatform.storage.layout import ATLAS, ATLAS_FILE, ATLAS_STAGE_FILE, PATCHES, TEMPLATE_FILE
from ctplatform.storage.workspace import Workspace
from ctplatform.training.loop import Loop
from ctplatform.training.online_probe import OnlineProbe, ProbeSubjects
from drasclr.atlas import Atlas
from tests.gloo import run_group

SCANS = 7
#: Ten locations in blocks of 4, 3 and 3; five scans a step: nothing divides by two.
SETTINGS = (
    "atlas.step=32",
    "pretrain.encoder.experts=2",
    "pretrain.encoder.norm=group",
    "pretrain.beta=1",
    "pretrain.scans_per_batch=5",
    "pretrain.locations_per_batch=2",
    "pretrain.queue_size=8",
    "pretrain.optimizer=sgd",
    "pretrain.lr=0.05",
    "pretrain.momentum=0.9",
    "pretrain.max_steps=6",
    "pretrain.checkpoint_every=2",
    "pretrain.log_every=1",
    "pretrain.num_workers=2",
    "pretrain.warmup_steps=0",
    "pretrain.location_norm=false",
)
#: Each epoch of three steps is probed, and the best encoder published.
SELECTING = (
    "pretrain.best_by=probe",
    "pretrain.locations_per_batch=5",
    "pretrain.scans_per_batch=7",
    "pretrain.beta=0",
    "pretrain.epochs=40",
    "pretrain.max_steps=null",
    "pretrain.checkpoint_every=3",
    "pretrain.log_every=100",
)
#: Labels that no patch explains: no epoch is better than the first.
PROBED = ProbeSubjects(
    "emphysema_extent", tuple(f"s{number}" for number in range(SCANS - 1)), (0.1, 0.4, 0.2, 0.6, 0.3, 0.5)
)


def recipe_with(*overrides: str) -> Recipe:
    """The demo's recipe for this workspace."""
    return load_recipe("demo", [*SETTINGS, *overrides])


def small_atlas() -> Atlas:
    """Ten locations, no lungs needed."""
    return Atlas.from_template(
        np.ones((32, 64, 160), np.uint8),
        spacing=(1.0, 1.0, 1.0),
        origin=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        patch_size=32,
        step=32,
        neighbours=2,
        block_size=3,
    )


def training_workspace(uri: str | Path) -> Workspace:
    """Atlas, shards, ledger and split of seven scans of six subjects, all of them for training."""
    workspace, atlas, rng = Workspace(uri), small_atlas(), np.random.default_rng(0)
    workspace.write_json(atlas.to_json(), ATLAS, ATLAS_FILE)
    workspace.write_json({"hash": atlas.hash}, ATLAS, ATLAS_STAGE_FILE)
    template = sitk.GetImageFromArray(np.full((32, 64, 160), 50, np.uint8))
    workspace.write_bytes(image_to_bytes(template), ATLAS, TEMPLATE_FILE)
    for number in range(SCANS):
        blocks = rng.uniform(-1000, 200, (atlas.num_locations, 4, 4, 4))
        hu = blocks.repeat(8, 1).repeat(8, 2).repeat(8, 3).astype(np.int16)
        scan, subject = f"s{number}", f"p{min(number, SCANS - 2)}"
        data, footer = shards.encode(
            scan_id=scan,
            subject_id=subject,
            hu_NDHW=hu,
            inside_N=np.ones(len(hu), np.float32),
            atlas=atlas,
            metadata={},
        )
        workspace.write_bytes(data, PATCHES, f"{scan}.parquet")
        row = {"scan_id": scan, "subject_id": subject, "state": "accepted", "content_hash": scan}
        ledger.write_row(workspace, {**row, "footer": footer, "patches": len(hu), "shard_bytes": len(data)})
    write_split(workspace, Split(tuple(f"p{number}" for number in range(SCANS - 1)), ()))
    return workspace


class Killed(Exception):
    """Ends a loop as a killed worker would."""


def run_loop(
    workspace: Workspace,
    recipe: Recipe,
    run: str = "test",
    *,
    rank: int = 0,
    world: int = 1,
    stop_at: int | None = None,
) -> Loop:
    """A loop in this process that resumes and runs to its end, or stops after a checkpoint like a killed worker.

    With `best_by: probe` it is probed on `PROBED`.
    """
    loop = Loop(workspace, recipe, run, rank=rank, world=world, device=torch.device("cpu"))
    if recipe.pretrain.best_by == "probe":
        loop.probe = OnlineProbe(workspace, recipe, run, PROBED, loop.atlas, rank=rank, world=world)
    loop.resume()

    def checkpoint(loop: Loop) -> None:
        if loop.step == stop_at:
            raise Killed

    with contextlib.suppress(Killed):
        loop.run(on_checkpoint=checkpoint)
    return loop


def train(
    workspace: Workspace,
    recipe: Recipe,
    run: str,
    *,
    rank: int = 0,
    world: int = 1,
    stop_at: int | None = None,
) -> dict[str, Any]:
    """Resume a run until its end or its checkpoint at a step; returns the state of one rank."""
    loop = run_loop(workspace, recipe, run, rank=rank, world=world, stop_at=stop_at)
    return {
        "losses": [line["loss"] for line in loop.log.lines],
        "model": {name: value.clone() for name, value in loop.model.state_dict().items()},
        "memory": loop.model.memory.state_dict(),
        "step": loop.step,
    }


def same_model(one: dict, other: dict, *, tolerance: float) -> None:
    for name, value in one["model"].items():
        torch.testing.assert_close(other["model"][name], value, rtol=0, atol=tolerance, msg=name)


def same_memory(one: dict, other: dict, *, tolerance: float) -> None:
    torch.testing.assert_close(other["memory"]["keys"], one["memory"]["keys"], rtol=0, atol=tolerance)
    for name in ("locations", "subjects", "count", "pointer"):
        assert torch.equal(one["memory"][name], other["memory"][name]), name


def workers(
    uri: str, folder: Path, *jobs: tuple[str, tuple[str, ...], int | None], world: int = 2
) -> dict[str, list[dict[str, Any]]]:
    """Train with real gloo workers, one job (run, overrides, step to stop at) after the other; results by rank."""
    run_group(_worker, world, world, uri, str(folder), jobs)
    return {
        run: [torch.load(folder / f"{run}-{number}-{rank}.pt") for rank in range(world)]
        for number, (run, _, _) in enumerate(jobs)
    }


def _worker(rank: int, world: int, uri: str, folder: str, jobs: tuple) -> None:
    for number, (run, overrides, stop_at) in enumerate(jobs):
        result = train(Workspace(uri), recipe_with(*overrides), run, rank=rank, world=world, stop_at=stop_at)
        torch.save(result, f"{folder}/{run}-{number}-{rank}.pt")
        dist.barrier()
