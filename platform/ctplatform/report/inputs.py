"""The inputs of the report, read from the workspace once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.errors import StageError
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

log = logging.getLogger(__name__)

REQUIRED = {
    "results": ("task", "initialisation", "fraction", "seed", "metric", "value"),
    "predictions": ("task", "initialisation", "fraction", "seed", "subject_id", "prediction"),
    "summary": ("task", "initialisation", "fraction", "metric", "value", "low", "high", "n_test"),
    "comparisons": ("task", "metric", "fraction", "a", "b", "difference", "low", "high"),
    "details": ("task", "initialisation", "fraction", "seed", "name", "value"),
    "horizons": ("task", "initialisation", "fraction", "measure", "days", "value", "low", "high", "n_test"),
    "savings": ("task", "metric", "initialisation", "target", "labels", "low", "high", "n_baseline"),
}


@dataclass(frozen=True)
class Inputs:
    """The results that the stages have written so far; None or empty where there are none.

    Args:
        ledger: one row a scan (scans/*.parquet).
        overlays: ids of the scans that have a quality-control image.
        metrics: one row a logged pretraining step, steps ascending.
        probe: task, metric and baselines of the probe whose scores are in `metrics`.
        remarks: trials that the sweep left out, with the reason.
        scan_table: as it was given.
    """

    workspace: Workspace
    recipe: Recipe
    run: str
    ledger: pd.DataFrame
    overlays: frozenset[str]
    splits: Mapping[str, Any] | None
    atlas: Mapping[str, Any] | None
    metrics: pd.DataFrame | None
    card: Mapping[str, Any] | None
    results: pd.DataFrame | None
    predictions: pd.DataFrame | None
    summary: pd.DataFrame | None
    comparisons: pd.DataFrame | None
    savings: pd.DataFrame | None = None
    details: pd.DataFrame | None = None
    horizons: pd.DataFrame | None = None
    remarks: tuple[str, ...] = ()
    probe: Mapping[str, Any] | None = None
    scan_table: pd.DataFrame | None = None

    @property
    def usable(self) -> pd.DataFrame:
        """Ledger rows that later stages work on."""
        states = ["accepted", "flagged"] if self.recipe.prepare.quality.use_flagged else ["accepted"]
        return self.ledger[self.ledger["state"].isin(states)]

    @property
    def tasks(self) -> list[str]:
        """Tasks with a summary, in the order of the recipe, others after them."""
        return self._ordered("task", self.recipe.sweep.tasks)

    @property
    def initialisations(self) -> list[str]:
        """Initialisations with a summary, in the order of the recipe, others after them."""
        return self._ordered("initialisation", self.recipe.sweep.initialisations)

    def _ordered(self, column: str, order: Sequence[str]) -> list[str]:
        if self.summary is None:
            return []
        found = dict.fromkeys(self.summary[column])
        return sorted(found, key=lambda name: order.index(name) if name in order else len(order))

    @property
    def is_empty(self) -> bool:
        """Whether no stage has written anything that the report shows."""
        return self.ledger.empty and self.metrics is None and self.results is None and self.summary is None


def read_inputs(workspace: Workspace, recipe: Recipe, *, run: str) -> Inputs:
    """Read everything that exists.

    Raises:
        StageError: a table lacks a column that the report needs.
    """
    return Inputs(
        workspace=workspace,
        recipe=recipe,
        run=run,
        ledger=_ledger(workspace),
        overlays=frozenset(
            name.removesuffix(layout.PNG)
            for name in workspace.files(layout.SCANS, layout.OVERLAYS, suffix=layout.PNG)
        ),
        splits=_json(workspace, layout.SPLITS_FILE),
        atlas=_json(workspace, layout.ATLAS, layout.ATLAS_FILE),
        metrics=_metrics(workspace, *layout.training_metrics(run)),
        probe=_json(workspace, *layout.probe(run)),
        card=_json(workspace, *layout.card(run)),
        results=_table(workspace, "results", run),
        predictions=_table(workspace, "predictions", run),
        summary=_table(workspace, "summary", run),
        comparisons=_table(workspace, "comparisons", run),
        savings=_table(workspace, "savings", run),
        details=_table(workspace, "details", run),
        horizons=_table(workspace, "horizons", run),
        remarks=tuple(map(str, _json(workspace, *layout.notes(run)) or ())),
    )


def _ledger(workspace: Workspace) -> pd.DataFrame:
    if not workspace.files(layout.SCANS, suffix=layout.PARQUET):
        return pd.DataFrame(columns=ledger.SCHEMA.names)
    return ledger.read_ledger(workspace)


def _table(workspace: Workspace, name: str, run: str) -> pd.DataFrame | None:
    parts = layout.evaluation_table(run, name)
    if not workspace.exists(*parts):
        return None
    frame = _checked(workspace.read_table(*parts).to_pandas(), name, workspace.display(*parts))
    return None if frame.empty else frame


def _checked(frame: pd.DataFrame, name: str, where: str) -> pd.DataFrame:
    absent = [column for column in REQUIRED[name] if column not in frame]
    if absent:
        raise StageError(
            f"{where} lacks the column(s) {', '.join(absent)}",
            "Run the stage that writes it again with this version",
            code="columns",
        )
    return frame


def _json(workspace: Workspace, *parts: str) -> Any:
    return workspace.read_json(*parts) if workspace.exists(*parts) else None


def _metrics(workspace: Workspace, *parts: str) -> pd.DataFrame | None:
    if not workspace.exists(*parts):
        return None
    rows = []
    for line in workspace.read_bytes(*parts).decode().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            log.warning(
                "pretraining metrics: a line that is not JSON is skipped (a killed run can leave one)"
            )
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    if not rows:
        return None
    # A resumed run logs some steps twice; the weights result from the later ones.
    frame = pd.DataFrame(rows).drop_duplicates("step", keep="last")
    return frame.sort_values("step", ignore_index=True)
