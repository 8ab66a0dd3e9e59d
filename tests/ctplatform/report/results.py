"""The tables of an evaluated run, drawn with numpy: trials, predictions, and the summaries that follow from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.slices import Slice, write_slices
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
