"""Encoders pretrained on real CTs, for the few-shot texture test of the evidence.

The scans are those of the folder that `DRASCLR_REAL_CT` names: a handful, so that what comes out says what that many
scans give, and not what real tissue gives. They are sampled at the development cohort's atlas and pretrained on as the
phantoms are, with as many anchors a step and steps.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from ctplatform.config.recipe import Recipe
from tests.benchmarks.evidence_parts import (
    DEVELOPMENT,
    SEEDS,
    Evidence,
    pretrain_run,
    recipe_of,
    write_result,
)

CT = "DRASCLR_REAL_CT"
REAL = "real"
Part = tuple[Path, list[str]]


def scans_folder() -> Path | None:
    """The folder of CTs; None where it is not there, so that these encoders are left out."""
    path = os.environ.get(CT)
    return Path(path) if path and Path(path).is_dir() else None


def phases(evidence: Evidence) -> list[list[Part]]:
    """Preparing the scans, then an encoder a seed; none without the folder."""
    if scans_folder() is None:
        print(f"encoders pretrained on real CTs are left out: set {CT} to a folder of chest CTs", flush=True)
        return []
    pretrained = [(evidence.pretrained(REAL, seed), ["real_pretrain", str(seed)]) for seed in SEEDS]
    return [[(evidence.prepared(REAL), ["real_prepare"])], pretrained]


def is_part(arguments: list[str]) -> bool:
    """Whether a part makes such an encoder or scores it."""
    return arguments[0].startswith("real_") or REAL in arguments


def real_recipe(seed: int, *, scans: int) -> Recipe:
    """As the phantoms' encoders are pretrained: all scans a step, and as many anchors."""
    from ctplatform.config.loader import load_recipe

    usual = recipe_of(DEVELOPMENT).pretrain
    anchors = usual.scans_per_batch * usual.locations_per_batch
    return load_recipe(
        "evidence",
        (
            f"pretrain.seed={seed}",
            f"pretrain.scans_per_batch={scans}",
            f"pretrain.locations_per_batch={anchors // scans}",
            f"pretrain.epochs={100 * anchors}",
            "split.test_fraction=0.01",
        ),
    )


def prepare(evidence: Evidence) -> None:
    """Find the scans, sample them at the development cohort's atlas, and split off one, as the chain requires."""
    from ctplatform.cli.console import Console
    from ctplatform.cohort.discovery import discover
    from ctplatform.compute.session import ray_session
    from ctplatform.pipeline.chain import run_chain

    folder, workspace = scans_folder(), evidence.workspace(REAL)
    if folder is None:
        raise SystemExit(f"Set {CT} to a folder of chest CTs.")
    recipe, start = real_recipe(0, scans=2), time.monotonic()
    shutil.copytree(
        evidence.folder / DEVELOPMENT / "atlas", evidence.folder / REAL / "atlas", dirs_exist_ok=True
    )
    with ray_session(recipe.ray):
        run_chain(workspace, discover(folder).table, recipe, Console(), last="split")
    write_result(evidence.prepared(REAL), {"seconds": time.monotonic() - start})


def pretrain(evidence: Evidence, seed: int) -> None:
    """Pretrain an encoder on the scans, in this process."""
    from ctplatform.training.runs import training_scans

    workspace = evidence.workspace(REAL)
    scans = len(training_scans(workspace, real_recipe(seed, scans=2)))
    result = pretrain_run(workspace, real_recipe(seed, scans=scans), evidence.run_name(REAL, seed))
    write_result(evidence.pretrained(REAL, seed), {"variant": REAL, "seed": seed, **result})
