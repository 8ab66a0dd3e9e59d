"""A workspace as the stages leave it: plausible numbers drawn with numpy, in the files' true formats."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw

from ctplatform.dataset import ledger, shards
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.dense.slices import Slice, write_slices
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task

FRACTIONS = (0.25, 0.5, 1.0)
SEEDS = 3
# How much of the truth each initialisation sees with all labels, and how fast it loses that with fewer.
SKILL = {"drasclr": (0.85, 0.1), "scratch": (0.6, 0.5), "density": (0.95, 0.05), "random": (0.35, 0.2)}
SKILL |= {"local": (0.75, 0.12), "none": (0.8, 0.1)}
METRICS = {
    "emphysema_extent": ("r2", "mae"),
    "gold_stage": ("kappa", "exact"),
    "survival": ("c_index",),
    "emphysema": ("auroc", "brier"),
}


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
    }


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


def write_evaluation(workspace: Workspace, run: str, truth: pd.DataFrame, rng: np.random.Generator) -> None:
    """Trials and predictions from a noisy look at the truth; summary and comparisons follow from them."""
    trials, predictions = [], []
    n_all = int(truth["n_train"].iloc[0])
    for task, metrics in METRICS.items():
        target = truth["hazard" if task == "survival" else task].to_numpy(float)
        for name, (skill, loss) in SKILL.items():
            for fraction in FRACTIONS:
                for seed in range(SEEDS):
                    seen = max(0.0, skill - loss * -np.log2(fraction) / 2)
                    noise = rng.normal(0, target.std() * (1.05 - seen), len(target))
                    value = target.mean() + seen * (target - target.mean()) + 0.95 * noise
                    value = value.round().clip(0, 4) if task == "gold_stage" else value
                    value = 1 / (1 + np.exp(-4 * (value - 0.5))) if task == "emphysema" else value
                    predictions.append(
                        pd.DataFrame(
                            {
                                "task": task,
                                "initialisation": name,
                                "fraction": fraction,
                                "seed": seed,
                                "subject_id": truth["subject_id"],
                                "scan_id": truth["subject_id"] + "-ct1",
                                "target": np.nan if task == "survival" else target,
                                "prediction": value,
                                "time": truth["time"] if task == "survival" else np.nan,
                                "event": truth["event"] if task == "survival" else np.nan,
                            }
                        )
                    )
                    trials += [
                        {
                            "task": task,
                            "initialisation": name,
                            "fraction": fraction,
                            "seed": seed,
                            "metric": metric,
                            "value": score(metric, predictions[-1]),
                            "n_train": round(fraction * n_all),
                            "n_test": len(truth),
                            "seconds": float(rng.uniform(0.5, 4)),
                        }
                        for metric in metrics
                    ]
    table = pd.concat(predictions, ignore_index=True)
    results = pd.DataFrame(trials)
    summary, comparisons = _summaries(results, table, rng)
    table = pd.concat([table, write_maps(workspace, run, truth, rng)], ignore_index=True)
    for name, frame in (
        ("results", results),
        ("predictions", table),
        ("summary", summary),
        ("comparisons", comparisons),
        ("horizons", _horizons(truth)),
        ("details", _details()),
        ("savings", _savings(summary, n_all)),
    ):
        workspace.write_table(
            pa.Table.from_pandas(frame, preserve_index=False), "evaluation", run, f"{name}.parquet"
        )


def write_maps(workspace: Workspace, run: str, truth: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Slices of three subjects of both kinds of task on label maps; returns their predictions."""
    tables = []
    for task, names in {"emphysema_subtypes": ("drasclr", "density"), "nodules": ("scratch",)}.items():
        classes = get_task(task).classes
        for name in names:
            slices = []
            for subject in truth["subject_id"][:3]:
                called = (
                    rng.integers(0, len(classes) + 1, (6, 5)).astype(np.uint8).repeat(24, 0).repeat(24, 1)
                )
                grey = rng.integers(20, 90, called.shape).astype(np.uint8)
                slices.append(Slice(subject, f"{subject}-ct1", "coronal", grey, called[::-1].copy(), called))
                rows = {"subject_id": subject, "scan_id": f"{subject}-ct1", "class": list(classes)}
                values = {
                    "target": rng.uniform(0, 40, len(classes)),
                    "prediction": rng.uniform(0, 40, len(classes)),
                }
                cell = {"task": task, "initialisation": name, "fraction": 1.0, "seed": 0}
                tables.append(pd.DataFrame({**cell, **rows, **values}))
            write_slices(workspace, run, Cell(task, name, 1.0, 0), slices)
    return pd.concat(tables)


def _horizons(truth: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for i, name in enumerate(SKILL):
        for measure, days in (("auc_t", 365.25), ("auc_t", 1095.75), ("auc_t", 1826.25), ("uno_c", 2500.0)):
            value = 0.8 - 0.07 * i
            cases = int((truth["event"].astype(bool) & (truth["time"] <= days)).sum())
            rows.append(
                {
                    "task": "survival",
                    "initialisation": name,
                    "fraction": 1.0,
                    "measure": measure,
                    "days": days,
                }
                | {"value": value, "low": value - 0.12, "high": value + 0.1, "cases": cases}
                | {"controls": len(truth) - cases, "n_test": len(truth), "n_seeds": SEEDS}
            )
    return pd.DataFrame(rows)


def _details() -> pd.DataFrame:
    rows = []
    for name in SKILL:
        for seed in range(SEEDS):
            found = {"components": 4.0, "penalty": 0.3, "schoenfeld_p": 0.2 + 0.1 * seed}
            searched = {"lr": 1e-3 * (seed + 1), "weight_decay": 1e-4, "configurations": 6.0}
            searched |= {"stopped": 4.0, "seconds": 30.0}
            for key, value in (searched if name == "scratch" else found).items():
                rows.append(("survival", name, 1.0, seed, key, value))
    return pd.DataFrame(rows, columns=["task", "initialisation", "fraction", "seed", "name", "value"])


def _savings(summary: pd.DataFrame, n_all: int) -> pd.DataFrame:
    rows = []
    for task, metrics in METRICS.items():
        target = summary.query("task == @task and initialisation == 'scratch' and fraction == 1.0").iloc[0]
        for name, needed in (("drasclr", 0.3 * n_all), ("density", np.inf), ("random", np.nan)):
            row = {"task": task, "metric": metrics[0], "initialisation": name, "target": target["value"]}
            row |= {"target_low": target["low"], "target_high": target["high"], "chance": target["chance"]}
            row |= {"n_baseline": n_all, "labels": needed, "low": round(0.25 * n_all), "high": np.inf}
            rows.append(
                row | {"share_reached": 0.8, "n_least": round(0.25 * n_all), "n_test": 20, "n_seeds": SEEDS}
            )
    return pd.DataFrame(rows)


def score(metric: str, rows: pd.DataFrame) -> float:
    """The metric of one trial."""
    from lifelines.utils import concordance_index
    from sklearn import metrics

    if metric == "c_index":
        return float(concordance_index(rows["time"], -rows["prediction"], rows["event"]))
    if metric == "auroc":
        return float(metrics.roc_auc_score(rows["target"], rows["prediction"]))
    target, value = rows["target"].to_numpy(), rows["prediction"].to_numpy()
    if metric == "kappa":
        return float(metrics.cohen_kappa_score(target.astype(int), value.astype(int), weights="quadratic"))
    functions = {
        "r2": metrics.r2_score,
        "mae": metrics.mean_absolute_error,
        "brier": metrics.brier_score_loss,
        "exact": metrics.accuracy_score,
    }
    return float(functions[metric](target, value))


def _summaries(
    results: pd.DataFrame, predictions: pd.DataFrame, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means with intervals of a plausible width, not a bootstrap: the report only shows them."""
    chance = {"r2": 0.0, "mae": 0.09, "kappa": 0.0, "exact": 0.4, "c_index": 0.5, "auroc": 0.5, "brier": 0.25}
    rows = []
    for key, part in results.groupby(["task", "initialisation", "fraction", "metric"], sort=False):
        task, name, fraction, metric = key
        value = part["value"].mean()
        half = (0.02 if metric == "mae" else 0.16) * rng.uniform(0.8, 1.3)
        rows.append(
            {
                "task": task,
                "initialisation": name,
                "fraction": fraction,
                "metric": metric,
                "value": value,
                "low": value - 1.2 * half,
                "high": min(value + 0.8 * half, 1.0),
                "n_test": int(part["n_test"].iloc[0]),
                "n_train": int(part["n_train"].iloc[0]),
                "n_seeds": len(part),
                "chance": chance[metric],
            }
        )
    summary = pd.DataFrame(rows)
    pairs = []
    for (task, metric, fraction), part in summary.groupby(["task", "metric", "fraction"], sort=False):
        values = part.set_index("initialisation")["value"]
        for other in [name for name in SKILL if name != "drasclr"]:
            difference = values["drasclr"] - values[other]
            half = (0.02 if metric == "mae" else 0.14) * rng.uniform(0.8, 1.3)
            pairs.append(
                {
                    "task": task,
                    "metric": metric,
                    "fraction": fraction,
                    "a": "drasclr",
                    "b": other,
                    "difference": difference,
                    "low": difference - half,
                    "high": difference + half,
                    "p": float(np.clip(2 * np.exp(-2 * (difference / half) ** 2), 1e-4, 1)),
                    "n_test": int(part["n_test"].iloc[0]),
                }
            )
    return summary, pd.DataFrame(pairs)
