"""A tiny prepared workspace of known truth: one hidden severity a subject, seen in labels, vectors and patches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import torch

from ctplatform.config.loader import validate
from ctplatform.config.preparation import SplitConfig
from ctplatform.dataset import ledger, shards
from ctplatform.dataset.splits import make_split, write_split
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace
from drasclr import weights
from drasclr.atlas import Atlas
from drasclr.encoder import Encoder

RUN = "run"


def recipe(**sweep_keys):
    """A recipe whose sweep takes seconds."""
    values = {
        "fractions": [0.3, 1.0],
        "seeds": 2,
        "bootstrap": 200,
        "max_concurrent": 1,  # a second process imports torch for seconds, to run trials for less
        "scratch": {"max_steps": 1, "locations": 1, "pool": 1, "subjects_per_batch": 4},
        **sweep_keys,
    }
    return validate({"sweep": values, "pretrain": {"encoder": {"experts": 1}}})


def tiny_atlas() -> Atlas:
    """Three locations of 32 voxels."""
    lungs_ZYX = np.full((34, 34, 96), 50, np.uint8)
    lungs_ZYX[..., 48:] = 100
    return Atlas.from_template(
        lungs_ZYX,
        spacing=(1.0, 1.0, 1.0),
        origin=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        step=32,
        neighbours=1,
        block_size=2,
        corners_N3=np.array([[0, 0, 0], [32, 1, 2], [64, 2, 1]]),
    )


def build(
    folder, *, subjects: int = 40, seed: int = 0, with_shards: bool = True
) -> tuple[Workspace, pd.DataFrame]:
    """Workspace and cohort. The first subject has two scans; `random` vectors are noise, `drasclr` ones are not."""
    rng = np.random.default_rng(seed)
    workspace, atlas = Workspace(folder), tiny_atlas()
    workspace.write_json(atlas.to_json(), "atlas", "atlas.json")
    severity = rng.uniform(0, 1, subjects)
    owners = [0, *range(subjects)]
    rows, vectors = [], {"drasclr": [], "random": []}
    own = np.random.default_rng(seed + 1)
    loading = rng.normal(size=32)
    for number, owner in enumerate(owners):
        scan_id, subject_id = f"scan{number:03d}", f"sub{owner:03d}"
        lung = -600 - 350 * severity[owner] + own.normal(0, 40, (3, 4, 4, 4))  # nobody's lung is another's
        hu_NDHW = rng.normal(lung.repeat(8, 1).repeat(8, 2).repeat(8, 3), 60).astype(np.int16)
        if with_shards:
            data, _ = shards.encode(
                scan_id=scan_id,
                subject_id=subject_id,
                hu_NDHW=hu_NDHW,
                inside_N=np.ones(3, np.float32),
                atlas=atlas,
                metadata={},
            )
            workspace.write_bytes(data, PATCHES, f"{scan_id}.parquet")
        row = {
            "scan_id": scan_id,
            "subject_id": subject_id,
            "state": "accepted",
            "content_hash": f"content-{number}",
            "atlas_hash": atlas.hash,
            "affine": np.eye(4).ravel().tolist(),
            "laa950": severity[owner] + 0.3 * rng.normal(),
            "perc15": -900 - 40 * severity[owner] + 20 * rng.normal(),
            "volume_l": 5 + rng.normal(),
        }
        ledger.write_row(workspace, row)
        rows.append(row)
        vectors["drasclr"].append(loading * severity[owner] + 0.15 * rng.normal(size=32))
        vectors["random"].append(rng.normal(size=32))
    table = pd.DataFrame(rows)
    for name, values in vectors.items():
        embedding = pa.table(
            {
                "scan_id": table["scan_id"],
                "subject_id": table["subject_id"],
                "vector": pa.array([list(v) for v in values]),
            }
        )
        workspace.write_table(embedding, "embeddings", RUN, f"patients-{name}.parquet")
    write_split(workspace, make_split(table, SplitConfig(test_fraction=0.4)))
    place = np.array(owners)
    death = rng.exponential(2000 * np.exp(-2.5 * severity))
    cohort = table[["scan_id", "subject_id"]].assign(
        path="",
        emphysema_extent=0.5 * severity[place],
        gold_stage=np.digitize(severity, [0.3, 0.5, 0.7, 0.85])[place],
        exacerbations=np.floor(5 * severity)[place],
        survival_days=np.minimum(death, 1500)[place],
        death=(death <= 1500).astype(int)[place],
    )
    return workspace, cohort


def publish(workspace: Workspace, run: str, seed: int = 0) -> None:
    """Weights of an encoder with sound statistics, as pretraining leaves them."""
    torch.manual_seed(seed)
    encoder = Encoder(1).train()
    atlas = tiny_atlas()
    encoder(torch.randn(6, 1, 32, 32, 32), torch.from_numpy(atlas.coordinates_N3.copy()).repeat(2, 1))
    card = {"atlas_hash": atlas.hash, "hu_window": [-1024, 240]}
    for name, data in weights.files(encoder.eval(), card).items():
        workspace.write_bytes(data, "pretrain", run, name)


def table(workspace: Workspace, name: str) -> pd.DataFrame:
    """A table of the sweep."""
    return workspace.read_table("evaluation", RUN, f"{name}.parquet").to_pandas()


def times(workspace: Workspace) -> dict[str, int]:
    """Committed trial -> when it was written, ns."""
    names = workspace.files("evaluation", RUN, "trials")
    return {
        n: workspace.fs.get_file_info(workspace.path("evaluation", RUN, "trials", n)).mtime_ns for n in names
    }


def kill_trials():
    """Kill the workers that run trials; returns their process ids."""
    found = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.name().startswith(("ray::ImplicitFunc", "ray::SearchTrial"))
    ]
    for process in found:
        process.kill()
        process.wait()
    return [process.pid for process in found]
