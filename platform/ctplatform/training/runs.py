"""Pretraining runs: their names, the scans that they train on, and the metrics that they log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctplatform.config.ablations import ablated
from ctplatform.config.additions import nested_without_neutral
from ctplatform.config.digest import config_hash
from ctplatform.config.hardware import without_effect
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.dataset.atlas import read_atlas
from ctplatform.dataset.splits import read_split
from ctplatform.storage.layout import METRICS_FILE, PRETRAIN
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScanEntry:
    """A training scan.

    Attributes:
        scan_id: its id.
        subject: number of its subject; scans of one subject share it.
        footer: Parquet footer of its shard.
    """

    scan_id: str
    subject: int
    footer: bytes


def ablation_runs(workspace: Workspace, recipe: Recipe) -> dict[str, str]:
    """Initialisation -> its pretraining run: those of the recipe's ablations, and its own `runs`."""
    own = {name: run_name(workspace, ablated(recipe, name)) for name in recipe.sweep.ablations}
    return own | dict(recipe.sweep.runs)


def run_name(workspace: Workspace, recipe: Recipe) -> str:
    """Name of the recipe's run: the recipe's name and a hash of everything that the result depends on."""
    rows = training_rows(workspace, recipe)
    config = recipe.pretrain
    settings = nested_without_neutral(
        "pretrain", config.model_dump(mode="json", exclude=without_effect(config))
    )
    if config.best_by == "probe" and config.probe.task is None:  # the first of them with labels
        settings["probe"]["task"] = list(recipe.sweep.tasks)
    content = [f"{row.scan_id} {row.content_hash}" for row in rows.itertuples()]
    return f"{recipe.name}-{config_hash(settings, read_atlas(workspace).hash, '|'.join(content))}"


def read_metrics(workspace: Workspace, run: str) -> list[dict[str, Any]]:
    """All logged lines of a run, oldest first; none if there are none yet."""
    if not workspace.exists(PRETRAIN, run, METRICS_FILE):
        return []
    return [
        json.loads(line) for line in workspace.read_bytes(PRETRAIN, run, METRICS_FILE).decode().splitlines()
    ]


def training_rows(workspace: Workspace, recipe: Recipe, *, also: tuple[str, ...] = ()) -> pd.DataFrame:
    """Ledger rows of the scans that are trained on: usable ones of the split's training subjects.

    `also` names columns beside scan_id, subject_id, state and content_hash.
    """
    rows = ledger.read_ledger(workspace, columns=["scan_id", "subject_id", "state", "content_hash", *also])
    rows = ledger.usable(rows, use_flagged=recipe.prepare.quality.use_flagged)
    return rows[rows["subject_id"].isin(read_split(workspace).train)].reset_index(drop=True)


def training_scans(workspace: Workspace, recipe: Recipe) -> list[ScanEntry]:
    """The scans that are trained on, with their footers, sorted by id; subjects numbered in sorted order."""
    rows = training_rows(workspace, recipe, also=("footer",))
    number = {subject: i for i, subject in enumerate(sorted(set(rows["subject_id"])))}
    return [ScanEntry(row.scan_id, number[row.subject_id], row.footer) for row in rows.itertuples()]
