"""One worker and two on the two cores of one machine, through Ray Train: `python -m tests.benchmarks.scaling`.

Made-up scans in real shards, DDP over gloo, one thread a worker: what a second worker adds with all that a step needs,
reading included, when it brings a batch of its own (two then equal one with the doubled batch) and when both share the
batch of one, where what a step costs besides its patches weighs twice. The same steps in processes without Ray show
what its own processes take. Runs alternate; the best of each counts. Anchors a second and the share of the time that
steps wait for data are those of metrics.jsonl after the first steps. The machine must be quiet. `--write` puts the
table into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from ctplatform.compute.session import ray_session
from ctplatform.config.cluster import RayConfig
from ctplatform.config.loader import load_recipe
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger, shards
from ctplatform.dataset.atlas import image_to_bytes
from ctplatform.dataset.splits import Split, write_split
from ctplatform.storage.layout import ATLAS, ATLAS_FILE, PATCHES, TEMPLATE_FILE
from ctplatform.storage.workspace import Workspace
from ctplatform.training.loop import Loop
from ctplatform.training.pretrain import MALLOC, pretrain
from ctplatform.training.runs import read_metrics, run_name
from drasclr.atlas import Atlas
from tests.benchmarks import document
from tests.gloo import run_group

BAR, WAIT_BAR = 1.6, 0.05
LEAVE_OUT = 4  # steps, in which caches and the allocator warm up


def made_up(root: Path, *, scans: int) -> Workspace:
    """A prepared workspace of noise around the density of lungs: as dear to read and to train on as any other."""
    workspace = Workspace(root)
    z, y, x = np.ogrid[:280, :240, :320]
    right = ((z - 140) / 120) ** 2 + ((y - 120) / 80) ** 2 + ((x - 88) / 60) ** 2 < 1
    left = ((z - 140) / 120) ** 2 + ((y - 120) / 80) ** 2 + ((x - 232) / 60) ** 2 < 1
    lungs_ZYX = (right * 50 + left * 100).astype(np.uint8)
    atlas = Atlas.from_template(
        lungs_ZYX,
        spacing=(1.0, 1.0, 1.0),
        origin=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        step=40,
        neighbours=2,
        block_size=16,
    )
    workspace.write_json(atlas.to_json(), ATLAS, ATLAS_FILE)
    workspace.write_bytes(image_to_bytes(sitk.GetImageFromArray(lungs_ZYX)), ATLAS, TEMPLATE_FILE)
    rng, names = np.random.default_rng(0), [f"s{scan:03d}" for scan in range(scans)]
    for name in names:
        hu = rng.normal(-850, 60, (atlas.num_locations, *(atlas.patch_size,) * 3)).astype(np.int16)
        data, footer = shards.encode(
            scan_id=name,
            subject_id=name,
            hu_NDHW=hu,
            inside_N=np.ones(len(hu), np.float32),
            atlas=atlas,
            metadata={},
        )
        workspace.write_bytes(data, PATCHES, f"{name}.parquet")
        row = {"scan_id": name, "subject_id": name, "version": 1, "state": "accepted", "content_hash": name}
        ledger.write_row(workspace, {**row, "footer": footer})
    write_split(workspace, Split(train=tuple(names), test=("nobody",)))
    return workspace


class Case(NamedTuple):
    """Workers, scans a step of all of them, and whether Ray Train starts the workers."""

    workers: int
    scans: int
    ray: bool = True


def run(workspace: Workspace, recipe: Recipe) -> tuple[float, float]:
    """(anchors a second, share of waiting for data) of a training run."""
    workspace.delete("pretrain")
    return rates(workspace, pretrain(workspace, recipe).run)


def run_without_ray(workspace: Workspace, recipe: Recipe) -> tuple[float, float]:
    """The same of workers that are processes of this one, with the allocator's settings of a training."""
    workspace.delete("pretrain")
    name, world = run_name(workspace, recipe), max(1, recipe.pretrain.num_workers)
    added = {variable: value for variable, value in MALLOC.items() if variable not in os.environ}
    os.environ.update(added)
    try:
        run_group(_train, world, world, workspace.uri, recipe, name)
    finally:
        for variable in added:
            del os.environ[variable]
    return rates(workspace, name)


def _train(rank: int, world: int, uri: str, recipe: Recipe, name: str) -> None:
    Loop(Workspace(uri), recipe, name, rank=rank, world=world, device=torch.device("cpu")).run()


def rates(workspace: Workspace, name: str) -> tuple[float, float]:
    """(anchors a second, share of waiting for data) after the first steps of a run."""
    lines = read_metrics(workspace, name)
    warm = [line for line in lines if line["step"] > LEAVE_OUT]
    assert len(warm) > 2
    return (
        statistics.harmonic_mean([line["patches_per_s"] for line in warm]),
        statistics.mean(line["data_wait"] for line in warm),
    )


def main() -> None:
    """Measure and print."""
    own = load_recipe("fast").pretrain
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=own.scans_per_batch, help="a step")
    parser.add_argument("--locations", type=int, default=own.locations_per_batch, help="a step")
    parser.add_argument("--steps", type=int, default=44, help="30 or more: the first ones are left out")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    settings = (
        f"pretrain.locations_per_batch={options.locations}",
        f"pretrain.max_steps={options.steps}",
        "pretrain.queue_size=1024",
        "watch.tensorboard=true",
    )
    cases = {
        "1": Case(1, options.scans),
        "2, each with the batch of one": Case(2, 2 * options.scans),
        "2, sharing the batch of one": Case(2, options.scans),
        "1, without Ray": Case(1, options.scans, ray=False),
        "2, sharing the batch of one, without Ray": Case(2, options.scans, ray=False),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}

    def measure(*, ray: bool) -> None:
        for name, case in cases.items():
            if case.ray == ray:
                workers = (f"pretrain.scans_per_batch={case.scans}", f"pretrain.num_workers={case.workers}")
                recipe = load_recipe("fast", [*settings, *workers])
                found[name].append((run if ray else run_without_ray)(workspace, recipe))
                print(name, found[name][-1], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        workspace = made_up(Path(folder), scans=2 * options.scans)
        for _ in range(options.repeats):
            with ray_session(RayConfig(num_cpus=2)):
                measure(ray=True)
            measure(ray=False)
    best = {name: max(results) for name, results in found.items()}
    rows = []
    for name, (rate, wait) in best.items():
        case = cases[name]
        one = best["1" if case.ray else "1, without Ray"][0]
        ratio = "" if case.workers == 1 else f"{rate / one:.2f}x"
        bar = f">= {BAR}x" if case.ray and case.workers > 1 else ""
        rows.append([name, f"{rate:.1f}", ratio, bar, f"{wait:.1%}", f"<= {WAIT_BAR:.0%}"])
    text = (
        f"`python -m tests.benchmarks.scaling`: recipe `fast` with {options.scans} scans x {options.locations} "
        f"locations a step, two neighbours,\n{options.steps} steps, one thread a worker; DDP over gloo on "
        f"{os.cpu_count()} cores, {platform.machine()}. Ratio to one worker, started alike.\n\n"
        + document.table(["workers", "anchors/s", "ratio", "bar", "waiting for data", "bar"], rows)
        + "\n\nAll runs, in turn, anchors/s: "
        + "; ".join(
            f"{name}: {', '.join(f'{rate:.1f}' for rate, _ in results)}" for name, results in found.items()
        )
        + "."
    )
    print(text)
    if options.write:
        document.replace("Two workers", text)


if __name__ == "__main__":
    main()
