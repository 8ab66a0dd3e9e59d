"""A workspace as the stages leave it: plausible numbers drawn with numpy, in the true formats of the files."""

from __future__ import annotations

import io
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw

from ctplatform.dataset import ledger, shards
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.report.results import write_evaluation

RUN = "demo-1a2b"


EVIL = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">&"\''


def write_workspace(
    workspace: Workspace, *, run: str = "demo-1a2b", subjects: int = 60, seed: int = 0
) -> None:
    """Everything from ledger to comparisons."""
    rng = np.random.default_rng(seed)
    truth = write_scans(workspace, subjects=subjects, rng=rng)
    write_pretraining(workspace, run, rng)
    write_embeddings(workspace, run, rng)
    write_evaluation(workspace, run, truth, rng)


def write_scans(workspace: Workspace, *, subjects: int, rng: np.random.Generator) -> pd.DataFrame:
    """Ledger, overlays, splits and atlas; returns the held-out subjects' truth."""
    ids = [f"sub-{i:03d}" for i in range(subjects)]
    extent = rng.beta(1.2, 6, subjects)
    for i, subject in enumerate(ids):
        row = _row(f"{subject}-ct1", subject, float(extent[i]), rng)
        if i % 11 == 4:
            row |= {
                "state": "flagged",
                "code": "quality",
                "dice": 0.76,
                "reason": f"left lung: Dice {rng.uniform(0.6, 0.74):.2f} is below 0.75; 31 cm2 of lung on a cut face",
                "remedy": "Look at the overlay, then use the scan or leave it out",
            }
        elif i % 29 == 7:
            row |= {
                "state": "rejected",
                "code": "quality",
                "dice": 0.55,
                "reason": f"{rng.uniform(60, 90):.0f} cm2 of lung on the first slice, more than 60: the scan is cut",
                "remedy": "Look at the overlay, then use the scan or leave it out",
            }
        elif i % 31 == 13:
            row = {k: row[k] for k in ("scan_id", "subject_id", "atlas_hash", "config_hash", "software")} | {
                "state": "failed",
                "code": "truncated",
                "reason": "the file ends before the last slice",
                "remedy": "Copy it again from its source",
                "seconds": 0.2,
                "cpu_seconds": 0.1,
            }
        ledger.write_row(workspace, row)
        if row["state"] != "failed":
            workspace.write_bytes(overlay(row["scan_id"], rng), "scans", "qc", f"{row['scan_id']}.png")
    used = [s for i, s in enumerate(ids) if not (i % 29 == 7 or i % 31 == 13) or i % 11 == 4]
    order = rng.permutation(used)
    cut = round(0.35 * len(used))
    test, train = sorted(order[:cut]), sorted(order[cut:])
    workspace.write_json({"seed": 0, "train": train, "test": test, "stratify": "laa950"}, "splits.json")
    workspace.write_json(
        {"size": [300, 260, 280], "spacing": [1, 1, 1], "patch_size": 32, "step": 44, "hash": "9f8e7d6c5b4a"},
        "atlas",
        "atlas.json",
    )
    hazard = np.exp(2.5 * (extent - extent.mean()) / extent.std() * 0.5)
    time = rng.exponential(2400 / hazard)
    end = rng.uniform(900, 2600, subjects)
    frame = pd.DataFrame(
        {
            "subject_id": ids,
            "emphysema_extent": extent,
            "emphysema": (extent > np.median(extent)).astype(float),
            "gold_stage": np.digitize(extent, [0.08, 0.15, 0.25, 0.4]),
            "time": np.minimum(time, end).round(),
            "event": (time < end).astype(int),
            "hazard": np.log(hazard),
        }
    )
    return frame[frame["subject_id"].isin(test)].reset_index(drop=True).assign(n_train=len(train))


def _row(scan: str, subject: str, extent: float, rng: np.random.Generator) -> dict:
    right = rng.normal(2.9, 0.5)
    left = right / rng.normal(1.18, 0.08)
    dice = float(np.clip(rng.normal(0.92, 0.02), 0.81, 0.97))
    return {
        "scan_id": scan,
        "subject_id": subject,
        "state": "accepted",
        "reason": "",
        "remedy": "",
        "code": "",
        "notes": "",
        "dice": dice,
        "dice_right": dice + 0.01,
        "dice_left": dice - 0.01,
        "determinant": float(rng.normal(1.0, 0.1)),
        "volume_l": right + left,
        "right_l": right,
        "left_l": left,
        "side_ratio": right / left,
        "cut_top_cm2": float(rng.exponential(1.5)),
        "cut_bottom_cm2": float(rng.exponential(3)),
        "inside": float(1 - rng.exponential(0.01)),
        "laa950": float(np.clip(0.8 * extent + rng.normal(0.02, 0.02), 0, 1)),
        "perc15": float(-905 - 120 * extent + rng.normal(0, 8)),
        "mean_hu": float(-820 - 60 * extent + rng.normal(0, 12)),
        "affine": np.eye(4).ravel().tolist(),
        "content_hash": f"{rng.integers(2**62):016x}",
        "atlas_hash": "9f8e7d6c5b4a",
        "config_hash": "0123456789ab",
        "software": "0.1.0",
        "patches": 148,
        "seconds": float(rng.normal(4, 0.5)),
        "cpu_seconds": float(rng.normal(2.6, 0.3)),
        **_acquisition(zlib.crc32(scan.encode())),
    }


def _acquisition(number: int) -> dict:
    """Of some scans nothing is known."""
    kernel, maker = [("B30f", "Siemens"), ("B50f", "Siemens"), ("STANDARD", "GE"), (None, None)][number % 4]
    return {"kernel": kernel, "manufacturer": maker, "exposure_mas": 20.0 + number % 50 if kernel else None}


def overlay(title: str, rng: np.random.Generator, *, size: tuple[int, int] = (1200, 420)) -> bytes:
    """A PNG that stands in shape and size for the three views with outlines."""
    width, height = size
    noise = rng.normal(70, 14, (height, width)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for view in range(3):
        x = view * width // 3
        draw.ellipse([x + 15, 30, x + width // 3 - 15, height - 15], fill=(120, 120, 120))
        for side, colour in ((0, (86, 180, 233)), (1, (230, 159, 0))):
            left = x + 50 + side * 165
            draw.ellipse([left, 70, left + 130, height - 60], fill=(22, 22, 22), outline=colour, width=3)
            for dy in range(110, height - 90, 44):
                for dx in (30, 66, 100):
                    draw.ellipse([left + dx - 2, dy - 2, left + dx + 2, dy + 2], fill=(240, 228, 66))
    draw.text((12, 8), title, fill=(255, 255, 255))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def write_pretraining(workspace: Workspace, run: str, rng: np.random.Generator, *, steps: int = 600) -> None:
    """metrics.jsonl with a line torn by a kill, and the card."""
    lines = []
    for step in range(10, steps + 1, 10):
        fade = np.exp(-step / 180)
        local, global_ = 1.6 + 2.4 * fade + rng.normal(0, 0.08), 2.1 + 2.2 * fade + rng.normal(0, 0.08)
        lines.append(
            json.dumps(
                {
                    "step": step,
                    "epoch": step // 150,
                    "loss": local + global_,
                    "local": local,
                    "global": global_,
                    "top1": 0.75 - 0.7 * fade + rng.normal(0, 0.02),
                    "alignment": 0.5 + 0.6 * fade + rng.normal(0, 0.02),
                    "uniformity": -2.6 + 1.8 * fade + rng.normal(0, 0.03),
                    "effective_rank": 38 - 26 * fade + rng.normal(0, 0.6),
                    "expert_entropy": 0.98 + 0.01 * fade,
                    "negatives": min(64, step),
                    "lr": 0.03 * 0.5 * (1 + np.cos(np.pi * step / steps)),
                    "patches_per_s": rng.normal(240, 9),
                    "data_wait": 0.03,
                    "seconds": step * 0.31,
                    **({"probe": 0.7 - 0.4 * fade} if step % 150 == 0 else {}),
                }
            )
        )
    text = "\n".join(lines) + '\n{"step": 610, "lo'
    workspace.write_bytes(text.encode(), "pretrain", run, "metrics.jsonl")
    about = {"task": "emphysema_extent", "metric_title": "Spearman's rho", "higher_is_better": True}
    about |= {"subjects": 36, "locations": 12, "folds": 5, "start": 0.31, "density": None}
    workspace.write_json(about, "pretrain", run, "probe.json")
    card = {"spacing_mm": 1.0, "hu_window": [-1024, 240], "patch_size": 32, "atlas_hash": "9f8e7d6c5b4a"}
    workspace.write_json(card, "pretrain", run, "card.json")


def write_embeddings(workspace: Workspace, run: str, rng: np.random.Generator, *, locations: int = 5) -> None:
    """Patient vectors that know the density, and shards of small patches with as many holes."""
    rows = ledger.read_ledger(workspace)
    rows = rows[rows["state"].isin(["accepted", "flagged"])]
    weights = rng.normal(size=16)
    vectors = [(10 + 8 * laa * weights + rng.normal(0, 0.3, 16)).astype(np.float32) for laa in rows["laa950"]]
    table = pa.table({"scan_id": rows["scan_id"], "subject_id": rows["subject_id"], "vector": vectors})
    workspace.write_table(table, "embeddings", run, "patients-drasclr.parquet")
    for row in rows.itertuples():
        hu = rng.normal(-850, 30, (locations, 16, 16, 16))
        hu[rng.random(hu.shape) < row.laa950] = -980
        patches = {
            "scan_id": [row.scan_id] * locations,
            "subject_id": [row.subject_id] * locations,
            "block": [0] * locations,
            "location": list(range(locations)),
            "home": [True] * locations,
            "inside": [1.0] * locations,
            "patch": [patch.astype("<i2").tobytes() for patch in hu],
        }
        table = pa.Table.from_pydict(patches, schema=shards.SCHEMA)
        workspace.write_table(table, PATCHES, f"{row.scan_id}.parquet")


def copied(evaluated: Workspace, folder: Path, *parts: str) -> Workspace:
    """A new workspace with some of the files."""
    for part in parts:
        source, target = Path(evaluated.path(part)), folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return Workspace(folder)


def replaced(workspace: Workspace, table: pd.DataFrame, *parts: str) -> None:
    workspace.write_table(pa.Table.from_pandas(table, preserve_index=False), *parts)
