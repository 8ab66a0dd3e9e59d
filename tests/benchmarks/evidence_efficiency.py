"""CPU time to the score of the recipe `demo` of version 0.1.0: that recipe and today's, trained on the same scans.

Both run with today's code, each with its own settings, in one process without Ray, on a part of the development cohort
as large as the demo's. The other subjects of the cohort are predicted. Today's recipe may take a quarter of the other's
CPU time.

Legend: S scans, N locations, D features, P numbers of a patient.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.config.recipe import Recipe
from ctplatform.inference.pooling import LocationStatistics, Pooling, pool
from ctplatform.storage.layout import SPLITS_FILE
from ctplatform.storage.workspace import Workspace
from tests.benchmarks import evidence_parts as parts
from tests.benchmarks.evidence_scores import LabelledCohort, Score, difference, probe, subset_of

if TYPE_CHECKING:
    from tests.benchmarks.evidence_parts import Evidence

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "0.1.0", "today"
#: The recipe of each, which makes its own steps.
CASES = {OLD: str(ROOT / "tests" / "data" / "demo-0.1.0.yaml"), NEW: "demo"}
SCANS = 36  # as the demo trains on
TESTED = 80
POOLINGS: tuple[Pooling, ...] = ("mean", "standardised_spread")
SHARE = 0.25  # of the other's CPU time


def recipe_of(case: str, seed: int) -> Recipe:
    """The recipe of a case, in one process."""
    from ctplatform.config.loader import load_recipe

    return load_recipe(CASES[case], ["pretrain.num_workers=0", f"pretrain.seed={seed}"])


def workspace_of(evidence: Evidence) -> Workspace:
    """The workspace of both."""
    return Workspace(str(evidence.folder / "demo-sized"))


def split_file(evidence: Evidence) -> Path:
    """Exists once the workspace is whole."""
    return evidence.folder / "demo-sized" / SPLITS_FILE


def prepare(evidence: Evidence) -> None:
    """Link scans, patches and atlas of the development cohort into a workspace with a split of its own."""
    from ctplatform.dataset.splits import read_split

    source, target = evidence.folder / parts.DEVELOPMENT, Path(workspace_of(evidence).root)
    split = read_split(evidence.workspace(parts.DEVELOPMENT))
    everyone = np.array(sorted((*split.train, *split.test)))
    drawn = everyone[np.random.default_rng(0).permutation(len(everyone))]
    shutil.rmtree(target, ignore_errors=True)
    for name in ("atlas", "patches", "scans"):
        shutil.copytree(source / name, target / name, copy_function=os.link)
    sides = {"train": sorted(drawn[:SCANS]), "test": sorted(drawn[SCANS : SCANS + TESTED])}
    stored = json.loads((source / SPLITS_FILE).read_text(encoding="utf-8"))
    split_file(evidence).write_text(json.dumps(stored | sides), encoding="utf-8")


def result_file(evidence: Evidence, case: str, seed: int) -> Path:
    """CPU-seconds of pretraining, its log, and predictions by pooling, task and number of labels."""
    return evidence.folder / "efficiency" / f"{case}-{seed}.json"


def measure(evidence: Evidence, case: str, seed: int) -> dict[str, Any]:
    """Pretrain, encode, fit heads, predict the other subjects."""
    import torch

    from ctplatform.inference.encoders import load_encoder
    from ctplatform.training.loop import Loop
    from ctplatform.training.runs import read_metrics

    torch.set_num_threads(1)
    recipe, workspace, run = recipe_of(case, seed), workspace_of(evidence), f"{case}-{seed}"
    start = time.process_time()
    loop = Loop(workspace, recipe, run, rank=0, world=1, device=torch.device("cpu"))
    loop.run()
    seconds = time.process_time() - start
    encoder = load_encoder(workspace, run, hu_window=recipe.prepare.hu_window).eval()
    subjects, vectors_SND = _encoded(workspace, recipe, encoder)
    return {
        "cpu_seconds": seconds,
        "log": read_metrics(workspace, run),
        "predictions": {
            pooling: _predictions(evidence, subjects, vectors_SND, pooling) for pooling in POOLINGS
        },
    }


def claim(evidence: Evidence) -> dict[str, Any]:
    """Whether today's recipe reaches the other's score in a quarter of the CPU time, with the seeds that both have.

    Raises:
        FileNotFoundError: they have none.
    """
    seeds = [s for s in parts.SEEDS if all(result_file(evidence, case, s).exists() for case in CASES)]
    if not seeds:
        raise FileNotFoundError("efficiency: the two recipes have no seed in common")
    runs = {
        case: [json.loads(result_file(evidence, case, seed).read_text(encoding="utf-8")) for seed in seeds]
        for case in CASES
    }
    pooling = recipe_of(NEW, 0).embed.pooling
    tasks, draws = {}, []
    for name, (_, metric) in parts.tasks().items():
        for labels in (parts.FEW, SCANS):
            target = labelled(evidence, name).test_targets
            scores = {
                (case, how): Score(
                    {
                        "test": [
                            [np.array(p) for p in run["predictions"][how][name][str(labels)]]
                            for run in runs[case]
                        ]
                    },
                    {"test": target},
                    metric,
                )
                for case in CASES
                for how in POOLINGS
            }
            found, draws_B = difference(scores[NEW, pooling], scores[OLD, "mean"])
            draws.append(draws_B)
            tasks[f"{name}, {labels} labels"] = found.plain() | {
                "metric": metric,
                "with_the_same_pooling": round(float(scores[OLD, pooling].values().mean()), 3),
            }
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    seconds = {case: [round(run["cpu_seconds"]) for run in runs[case]] for case in CASES}
    share = float(np.mean(seconds[NEW]) / np.mean(seconds[OLD]))
    mean = float(np.mean([found["difference"] for found in tasks.values()]))
    return {
        "name": "efficiency",
        "holds": bool(tuple(seeds) == parts.SEEDS and share <= SHARE and low >= 0),
        "difference": round(mean, 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "n": TESTED,
        "needed": f"{len(parts.SEEDS)} seeds, {SHARE:g} of the CPU time, the mean difference's interval not below 0",
        "cpu_share": round(share, 3),
        "cpu_seconds": seconds,
        "seeds": len(seeds),
        "scores": tasks,
    }


def labelled(evidence: Evidence, name: str) -> LabelledCohort:
    """A task on the two sides of the split."""
    from ctplatform.dataset.splits import read_split

    split, (task, _) = read_split(workspace_of(evidence)), parts.tasks()[name]
    table = evidence.table(parts.DEVELOPMENT)
    labels = task.labels(table[table["subject_id"].isin((*split.train, *split.test))])
    row_of = {subject: row for row, subject in enumerate(labels.subjects)}
    train, test = (tuple(s for s in side if s in row_of) for side in (split.train, split.test))
    train_targets, test_targets = (
        labels.targets.take(np.array([row_of[s] for s in side])) for side in (train, test)
    )
    return LabelledCohort(task, train, train_targets, test, test_targets, {})


def _encoded(workspace: Workspace, recipe: Recipe, encoder: Any) -> tuple[list[str], np.ndarray]:
    """Subjects of both sides, and x_SND."""
    import torch

    from ctplatform.dataset import ledger
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.dataset.shards import read_patches
    from ctplatform.dataset.splits import read_split
    from drasclr import augment

    split = read_split(workspace)
    rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=True)
    rows = rows[rows["subject_id"].isin((*split.train, *split.test))].sort_values("subject_id")
    coordinates_N3 = torch.from_numpy(np.array(read_atlas(workspace).coordinates_N3, dtype=np.float32))
    found = []
    with torch.inference_mode():
        for first in range(0, len(rows), 8):
            scans = list(rows["scan_id"].iloc[first : first + 8])
            hu_NSDHW = torch.from_numpy(
                np.stack([read_patches(workspace, scan)[1] for scan in scans], axis=1)
            )
            patches = augment.normalise(hu_NSDHW, hu_window=recipe.prepare.hu_window)
            found.append(encoder.grouped(patches, coordinates_N3).transpose(0, 1).numpy())
    return list(rows["subject_id"].astype(str)), np.concatenate(found)


def _predictions(
    evidence: Evidence, subjects: list[str], vectors_SND: np.ndarray, pooling: Pooling
) -> dict[str, dict[str, list[list[float]]]]:
    """Task -> number of labels -> predictions of a head on each subset of so many labels."""
    from ctplatform.dataset.splits import read_split

    train = set(read_split(workspace_of(evidence)).train)
    rows, inside_SN = [subject in train for subject in subjects], np.ones(vectors_SND.shape[:2])
    statistics = LocationStatistics.of(vectors_SND[rows], inside_SN[rows])
    x_SP = pool(vectors_SND, inside_SN, pooling, statistics).astype(float)
    x = dict(zip(subjects, x_SP, strict=True))
    found: dict[str, dict[str, list[list[float]]]] = {}
    for name in parts.tasks():
        problem = labelled(evidence, name)
        few = [probe(problem, x, subset_of(problem, parts.FEW, number)) for number in range(parts.SUBSETS)]
        found[name] = {
            str(parts.FEW): [p.astype(float).tolist() for p in few],
            str(SCANS): [probe(problem, x, np.arange(len(problem.train))).astype(float).tolist()],
        }
    return found
