"""TODO."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.config.section import _flatten
from ctplatform.errors import StageError
from ctplatform.pipeline.progress import Outcome
from ctplatform.pipeline.records import Record, read_record
from ctplatform.pipeline.stage import Stage
from ctplatform.storage.layout import (
    ATLAS,
    ATLAS_STAGE_FILE,
    CARD_FILE,
    EMBEDDINGS,
    EVALUATION,
    PATCHES,
    PRETRAIN,
    REPORT_FILE,
    SPLITS_FILE,
    SUMMARY_FILE,
)
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

#: Cohort columns that say which scan, not what is known of the patient.
IDENTITY = ("scan_id", "subject_id", "path", "series_uid")


def _run(workspace: Workspace, recipe: Recipe, outcome: Outcome) -> str:
    """The run that later stages work on: this chain's, else the one that the recipe names."""
    if not outcome.run:
        from ctplatform.training.runs import run_name

        outcome.run = run_name(workspace, recipe)
        if not workspace.exists(PRETRAIN, outcome.run, CARD_FILE):
            raise StageError(
                f"this recipe's run {outcome.run} is not trained",
                "Run `drasclr pretrain` with the same recipe first",
                code="missing",
            )
    return outcome.run


class World:
    """The state of a workspace as one assessment sees it; everything is read once.

    Args:
        workspace: with whatever is there.
        cohort: the scan table, labels beside; empty where a stage needs none.
        recipe: how.
    """

    def __init__(self, workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe) -> None:
        self.workspace, self.cohort, self.recipe = workspace, cohort, recipe

    @cached_property
    def ledger(self) -> pd.DataFrame | None:
        """State and hashes of every scan; None before the first one."""
        from ctplatform.dataset.ledger import read_ledger

        try:
            columns = ["scan_id", "subject_id", "state", "code", "content_hash", "config_hash", "atlas_hash"]
            return read_ledger(self.workspace, columns=columns)
        except StageError:
            return None

    @cached_property
    def run(self) -> str:
        """Name of the recipe's training run; empty as long as it is not known what it would train on."""
        from ctplatform.training.runs import run_name

        try:
            return run_name(self.workspace, self.recipe)
        except StageError:
            return ""

    def digest(self, name: str) -> str:
        """Twelve hex digits of an input or output; empty if it is not there."""
        return getattr(self, f"_{name}")

    @cached_property
    def _scans(self) -> str:
        from ctplatform.imaging.fingerprint import fingerprint

        if self.cohort.empty:
            return ""
        rows = [
            [str(row.get(name) or "") for name in IDENTITY] + [fingerprint(str(row["path"]))]
            for row in self.cohort.to_dict("records")
        ]
        return config_hash({"scans": sorted(rows)})

    @cached_property
    def _labels(self) -> str:
        from ctplatform.cohort.table import names_label_maps
        from ctplatform.imaging.fingerprint import fingerprint

        labels = self.cohort[[name for name in self.cohort if name not in IDENTITY[2:]]]
        # Of a label map counts what it is, not where.
        maps = [name for name in labels if names_label_maps(labels[name].tolist())]
        labels = labels.assign(
            **{n: [fingerprint(v) if isinstance(v, str) else "" for v in labels[n]] for n in maps}
        )
        return config_hash(labels.sort_values("scan_id").to_csv(index=False)) if len(labels) else ""

    @cached_property
    def _atlas(self) -> str:
        if not self.workspace.exists(ATLAS, ATLAS_STAGE_FILE):
            return ""
        return str(self.workspace.read_json(ATLAS, ATLAS_STAGE_FILE)["hash"])[:12]

    @cached_property
    def _ledger(self) -> str:
        if self.ledger is None:
            return ""
        return config_hash(self.ledger.fillna("").to_csv(index=False))

    @cached_property
    def _patches(self) -> str:

        names = self.workspace.files(PATCHES, suffix=".parquet")
        return config_hash("|".join(names)) if names else ""

    @cached_property
    def _split(self) -> str:
        return self._content(SPLITS_FILE)

    @cached_property
    def _weights(self) -> str:
        return self._content(PRETRAIN, self.run, CARD_FILE) if self.run else ""

    @cached_property
    def _embeddings(self) -> str:
        names = [f"patients-{encoder}.parquet" for encoder in self.recipe.embed.encoders]
        parts = [self._content(EMBEDDINGS, self.run, name) if self.run else "" for name in names]
        return config_hash("|".join(parts)) if all(parts) else ""

    @cached_property
    def _results(self) -> str:
        return self._content(EVALUATION, self.run, SUMMARY_FILE) if self.run else ""

    @cached_property
    def _report(self) -> str:
        return self._content(EVALUATION, self.run, REPORT_FILE) if self.run else ""

    def _content(self, *parts: str) -> str:
        if not self.workspace.exists(*parts):
            return ""
        return config_hash(self.workspace.read_bytes(*parts).hex())

    def settings(self, stage: Stage) -> dict[str, Any]:
        """The recipe's values that the stage's result depends on, by dotted key."""
        plain = self.recipe.model_dump(mode="json")
        found: dict[str, Any] = {}
        for path in stage.settings:
            if path == "prepare.lungs" and self.recipe.atlas.source != "build":
                continue  # a given atlas does not depend on how lungs are masked
            value: Any = plain
            for part in path.split("."):
                value = value[part]
            found.update(_flatten(path, value))
        aside = tuple(f"{key}." for key in stage.hardware)
        return {key: value for key, value in found.items() if not f"{key}.".startswith(aside)}

    def inputs(self, stage: Stage) -> dict[str, str]:
        """Digest of everything that the stage reads."""
        return {name: self.digest(name) for name in stage.inputs}

    def record(self, stage: Stage) -> Record | None:
        """The stage's last run, if there was one."""
        if stage.of_run and not self.run:
            return None
        return read_record(self.workspace, stage.name, self.run if stage.of_run else "")
