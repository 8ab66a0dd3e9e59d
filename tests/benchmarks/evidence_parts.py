"""The computing parts of the evidence: cohorts, pretrained encoders, features, training on labels.

Each part is a call in a process of its own, writes one result and is skipped where that is there, so that a run which
was interrupted resumes. Encoders are pretrained once a seed, on the development cohort, and applied to the others,
whose scans are sampled at its atlas.

Legend: S scans, N locations, D features, G locations of a batch.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctplatform.config.recipe import Recipe
from ctplatform.phantom.files import is_dicom
from ctplatform.phantom.parameters import draw
from ctplatform.phantom.variation import vary
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.registry import get_task
from ctplatform.tasks.task import Task

#: At a time; more than cores take a larger share of a machine that is busy.
PROCESSES = int(os.environ.get("EVIDENCE_PROCESSES", "2"))
#: Where the claims are stored.
RESULT = Path(__file__).resolve().parents[2] / "docs" / "evidence.json"
DEVELOPMENT = "development"
#: Cohorts on which nothing was chosen, and their seeds.
FRESH = {"first": 4001, "second": 4002}
#: The same for recipe `varied`, whose tasks are those that density fails at, and those that the pooling is chosen on.
VARIED = {"fifth": 6001, "sixth": 6002}
VARIED_DEVELOPMENT = {"third": 5001, "fourth": 5002}
FRESH_SUBJECTS = 90
SEEDS = (0, 1, 2)
MAIN, RANDOM, DENSITY, HISTOGRAM = "local", "random", "density", "histogram"
#: The random encoder with the representation that suits it best, instead of the pretrained encoder's.
BEST_RANDOM = "best random"
#: What differs from the recipe `evidence`. All were meant to cost the CPU time of the 400 steps of `local`: a step with
#: both losses costs as much as 2.4 of them; without conditioning 0.9. With each patch encoded once a step has three
#: times the anchors: 140 of them took 436 and 440 CPU-seconds, so 84 have the cost of 165 with both losses.
VARIANTS: dict[str, tuple[str, ...]] = {
    "local": (),
    "both": ("pretrain.beta=1", "pretrain.max_steps=165"),
    "unconditioned": (
        "pretrain.encoder.conditioning=none",
        "pretrain.encoder.experts=1",
        "pretrain.max_steps=440",
    ),
    "once": (
        "pretrain.beta=1",
        "pretrain.encode_once=true",
        "pretrain.scans_per_batch=12",
        "pretrain.locations_per_batch=12",
        "pretrain.max_steps=84",
    ),
}
LABEL_COUNTS = (8, 16, 32, 45)
SAME_PLACES = "few, same places"
FEW, ALL = LABEL_COUNTS[0], LABEL_COUNTS[-1]
#: Tasks of the claims that compare methods; networks are trained on the labels of the same ones.
CLAIMED = ("emphysema_extent", "emphysema", "gold_stage", "fev1pp")
TRAINED = CLAIMED
SUBSETS = 9  # a multiple of the seeds
#: Steps of training from scratch on all labels; with few, `sweep.scratch.max_steps`.
STEPS_ALL = 120


PARASEPTAL = Task(
    name="paraseptal",
    title="Paraseptal emphysema, visual",
    kind="binary",
    columns=("visual_paraseptal",),
    metrics=("auroc",),
    at_least=1,
)
#: Share of the emphysema that is of one kind, among those who have some: density sees how much, not which.
SHARES = {
    f"{kind}_share": Task(
        name=f"{kind}_share",
        title=f"{kind.capitalize()} share of the emphysema",
        kind="continuous",
        columns=(f"{kind}_share",),
        metrics=("spearman",),
        valid=(0.0, 1.0),
    )
    for kind in ("panlobular", "paraseptal")
}
#: The kernel moves LAA-950 by some seven points (Gallardo-Estrella et al., Eur Radiol 2016): heads are fitted on scans
#: of one kernel, and tested on those of the others.
OTHER_KERNEL = Task(
    name="extent_other_kernel",
    title="Emphysema extent on kernels without labels",
    kind="continuous",
    columns=("emphysema_extent",),
    metrics=("r2",),
    valid=(0.0, 1.0),
)
LABELLED_KERNEL = "soft"
LEAST_EXTENT = 0.012  # of the lung, for a share


def tasks() -> dict[str, tuple[Task, str]]:
    """The five tasks of the claims, each with its metric."""
    found = {
        name: (get_task(name), metric)
        for name, metric in {
            "emphysema_extent": "spearman",
            "emphysema": "auroc",
            "gold_stage": "kappa",
            "fev1pp": "spearman",
        }.items()
    }
    return found | {"paraseptal": (PARASEPTAL, "auroc")}


def harder() -> dict[str, tuple[Task, str]]:
    """The tasks in which density is not enough: the kind and place of disease, and other scanners."""
    return {name: (task, "spearman") for name, task in SHARES.items()} | {
        OTHER_KERNEL.name: (OTHER_KERNEL, "r2")
    }


def recipe_of(cohort: str, variant: str = "local", seed: int = 0) -> Recipe:
    """The recipe `evidence` for a cohort, a variant of pretraining and its seed."""
    from ctplatform.config.loader import load_recipe

    # All else waits for the development cohort; the others are prepared beside each other.
    cores = PROCESSES if cohort == DEVELOPMENT else 1
    overrides = [f"ray.num_cpus={cores}", f"pretrain.seed={seed}", *VARIANTS.get(variant, ())]
    if cohort != DEVELOPMENT:
        overrides += [
            f"phantom.seed={(FRESH | VARIED | VARIED_DEVELOPMENT)[cohort]}",
            f"phantom.subjects={FRESH_SUBJECTS}",
            "split.test_fraction=0.5",
        ]
    return load_recipe("varied" if cohort in VARIED | VARIED_DEVELOPMENT else "evidence", overrides)


class Evidence:
    """The folder of one run of the evidence, and its parts."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def workspace(self, cohort: str) -> Workspace:
        """A cohort's workspace."""
        return Workspace(str(self.folder / cohort))

    def table(self, cohort: str) -> pd.DataFrame:
        """A cohort's scan table with labels, the shares of the subtypes and the kernel."""
        table = pd.read_csv(self.folder / cohort / "phantom" / "cohort.csv", dtype={"subject_id": str})
        parts = ["centrilobular_extent", "panlobular_extent", "paraseptal_extent"]
        for kind in ("panlobular", "paraseptal"):
            share = table[f"{kind}_extent"] / table[parts].sum(axis=1).clip(lower=1e-9)
            table[f"{kind}_share"] = share.where(table["emphysema_extent"] >= LEAST_EXTENT)
        config = recipe_of(cohort).phantom
        assert config is not None
        drawn = [
            vary(
                draw(index, seed=config.seed, spacing_mm=config.spacing_mm, dicom=is_dicom(index, config)),
                config.variation,
            )
            for index in table["scan_id"].str.rsplit("-", n=1).str[1].astype(int)
        ]
        table["kernel"] = [subject.scanner.kernel for subject in drawn]
        return table

    def prepared(self, cohort: str) -> Path:
        """Exists once a cohort is prepared."""
        return self.folder / f"{cohort}.json"

    def prepare(self, cohort: str) -> None:
        """Generate a cohort, sample its scans at the development cohort's atlas, and split it."""
        from ctplatform.cli.console import Console
        from ctplatform.compute.session import ray_session
        from ctplatform.phantom.cohort import phantom_cohort
        from ctplatform.pipeline.chain import run_chain

        recipe, workspace = recipe_of(cohort), self.workspace(cohort)
        assert recipe.phantom is not None
        start = time.monotonic()
        if cohort != DEVELOPMENT:
            shutil.copytree(
                self.folder / DEVELOPMENT / "atlas", self.folder / cohort / "atlas", dirs_exist_ok=True
            )
        with ray_session(recipe.ray):
            table = phantom_cohort(workspace, recipe.phantom)
            run_chain(workspace, table, recipe, Console(), last="split")
        write_result(self.prepared(cohort), {"seconds": time.monotonic() - start, "subjects": len(table)})

    def run_name(self, variant: str, seed: int) -> str:
        """Name of a pretraining run in the development cohort's workspace."""
        return f"{variant}-{seed}"

    def pretrained(self, variant: str, seed: int) -> Path:
        """Exists once an encoder is pretrained: its log, seconds and CPU-seconds."""
        return self.folder / "pretrain" / f"{self.run_name(variant, seed)}.json"

    def pretrain(self, variant: str, seed: int) -> None:
        """Pretrain an encoder on the development cohort's training scans, in this process."""
        recipe, run = recipe_of(DEVELOPMENT, variant, seed), self.run_name(variant, seed)
        result = pretrain_run(self.workspace(DEVELOPMENT), recipe, run)
        write_result(self.pretrained(variant, seed), {"variant": variant, "seed": seed, **result})

    def features_file(self, cohort: str, encoder: str, seed: int) -> Path:
        """Features of all patches of a cohort from one encoder."""
        return self.folder / "features" / f"{cohort}-{encoder}-{seed}.npz"

    def features(self, cohort: str, encoder: str, seed: int) -> None:
        """Encode all patches: the 128 features, then the 496 of all scales, [S, N, 624]."""
        import torch

        from ctplatform.dataset import ledger
        from ctplatform.dataset.atlas import read_atlas
        from ctplatform.dataset.shards import read_patches
        from drasclr import augment

        torch.set_num_threads(1)
        workspace, recipe = self.workspace(cohort), recipe_of(cohort)
        model = self.encoder(encoder, seed).eval()
        atlas = read_atlas(workspace)
        coordinates_N3 = torch.from_numpy(np.array(atlas.coordinates_N3, dtype=np.float32))
        rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=True)
        rows = rows.sort_values("subject_id")
        parts, start = [], time.process_time()
        # Kernels are mixed once a location and call.
        for first in range(0, len(rows), 32):
            scans = list(rows["scan_id"].iloc[first : first + 32])
            hu_GSDHW = np.stack([read_patches(workspace, scan)[1] for scan in scans], axis=1)
            found = []
            with torch.inference_mode():
                for at in range(0, len(hu_GSDHW), 4):
                    patches = augment.normalise(
                        torch.from_numpy(hu_GSDHW[at : at + 4]), hu_window=recipe.prepare.hu_window
                    )
                    found.append(model.grouped_all(patches, coordinates_N3[at : at + 4]).numpy())
            parts.append(np.concatenate(found).swapaxes(0, 1))
        path = self.features_file(cohort, encoder, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(
            temporary,
            subjects=rows["subject_id"].astype(str).to_numpy().astype("U"),
            vectors=np.concatenate(parts).astype(np.float32),
            cpu_seconds=time.process_time() - start,
        )
        temporary.rename(path)

    def encoder(self, name: str, seed: int, *, home: str = DEVELOPMENT) -> Any:
        """A pretrained encoder, or a random one of the same architecture with the scans' normalisation statistics.

        Args:
            home: the cohort that it was pretrained on.
        """
        import torch

        from ctplatform.inference.encoders import load_encoder, random_encoder

        recipe, workspace = recipe_of(DEVELOPMENT, MAIN, seed), self.workspace(home)
        if name != RANDOM:
            return load_encoder(workspace, self.run_name(name, seed), hu_window=recipe.prepare.hu_window)
        torch.manual_seed(0)
        return random_encoder(workspace, recipe)

    def representation_file(self) -> Path:
        """The representation that was chosen, and the score of each candidate."""
        return self.folder / "representation.json"

    def representation(self, encoder: str) -> dict[str, Any]:
        """The representation that heads on an encoder are fitted on, with the scores of all candidates."""
        chosen = json.loads(self.representation_file().read_text(encoding="utf-8"))
        found: dict[str, Any] = chosen[RANDOM if encoder == BEST_RANDOM else MAIN]
        return found

    def probed_file(self, cohort: str, encoder: str, seed: int) -> Path:
        """Predictions of frozen heads for the test subjects."""
        return self.folder / "probed" / f"{cohort}-{encoder}-{seed}.json"

    def efficiency(self, case: str, seed: int) -> None:
        """Pretrain one of the two recipes that `evidence_efficiency` compares, and predict with it."""
        from tests.benchmarks import evidence_efficiency

        found = evidence_efficiency.measure(self, case, seed)
        write_result(evidence_efficiency.result_file(self, case, seed), found)

    def demo_sized(self) -> None:
        """The scans that both train on."""
        from tests.benchmarks import evidence_efficiency

        evidence_efficiency.prepare(self)


def pretrain_run(workspace: Workspace, recipe: Recipe, run: str) -> dict[str, Any]:
    """Pretrain in this process; its CPU-seconds, steps, scans and log."""
    import torch

    from ctplatform.storage.layout import CONFIG_FILE, PRETRAIN
    from ctplatform.training.loop import Loop
    from ctplatform.training.runs import read_metrics

    torch.set_num_threads(1)
    workspace.write_json(recipe.model_dump(mode="json"), PRETRAIN, run, CONFIG_FILE)
    cpu = time.process_time()
    loop = Loop(workspace, recipe, run, rank=0, world=1, device=torch.device("cpu"))
    loop.resume()
    resumed = loop.step
    loop.run()
    return {
        "cpu_seconds": time.process_time() - cpu,
        "steps": loop.step,
        "resumed_at": resumed,
        "scans": len(loop.scans),
        "log": read_metrics(workspace, run),
    }


def write_result(path: Path, content: dict[str, Any]) -> None:
    """Write a part's result, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.rename(path)
