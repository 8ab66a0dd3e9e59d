"""One view of a workspace and its cohort: what is there, read once and shared by all stages that look at it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

#: Cohort columns that say which scan, not what is known of the patient.
IDENTITY = ("scan_id", "subject_id", "path", "series_uid")
#: Codes of errors that no stage mends by making what is missing.
DAMAGED = ("damaged", "ledger")


class WorkspaceState:
    """The state of a workspace at one time; everything is read once.

    Args:
        workspace: with whatever is there.
        cohort: the scan table, labels beside; empty where a stage needs none.
        recipe: of the run.

    Attributes:
        digests: name of an input or output -> its digest, as far as computed; see `assessment.digest`.
    """

    def __init__(self, workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe) -> None:
        self.workspace, self.cohort, self.recipe = workspace, cohort, recipe
        self.digests: dict[str, str] = {}

    @cached_property
    def ledger(self) -> pd.DataFrame | None:
        """State and hashes of every scan; None before the first one.

        Raises:
            StageError: a file of the ledger is damaged.
        """
        from ctplatform.dataset.ledger import read_ledger

        try:
            columns = ["scan_id", "subject_id", "state", "code", "content_hash", "config_hash", "atlas_hash"]
            return read_ledger(self.workspace, columns=columns)
        except StageError as error:
            if error.code in DAMAGED:
                raise
            return None

    @cached_property
    def run(self) -> str:
        """Name of the recipe's training run; empty as long as its training subjects are not known.

        Raises:
            StageError: atlas, ledger or split is damaged.
        """
        try:
            return self._run_name()
        except StageError as error:
            if error.code in DAMAGED:
                raise
            return ""

    def required_run(self) -> str:
        """Name of the recipe's training run.

        Raises:
            StageError: the ledger or the split that the name depends on is not there.
        """
        return self.run or self._run_name()

    def _run_name(self) -> str:
        from ctplatform.training.runs import run_name

        return run_name(self.workspace, self.recipe)

    def file_digest(self, *parts: str) -> str:
        """Digest of a file's content; empty if it is not there."""
        if not self.workspace.exists(*parts):
            return ""
        return config_hash(self.workspace.read_bytes(*parts).hex())


def scans_digest(state: WorkspaceState) -> str:
    """Digest of the cohort's scans: their ids, paths, and sizes and times of their files; empty without a cohort."""
    from ctplatform.cohort.table import LUNG_MASK
    from ctplatform.imaging.fingerprint import fingerprint
    from ctplatform.imaging.label_map import given_path

    if state.cohort.empty:
        return ""
    rows = [
        [str(row.get(name) or "") for name in IDENTITY]
        + [fingerprint(str(row["path"]))]
        + [fingerprint(mask) for mask in [given_path(row.get(LUNG_MASK))] if mask]
        for row in state.cohort.to_dict("records")
    ]
    return config_hash({"scans": sorted(rows)})


def labels_digest(state: WorkspaceState) -> str:
    """Digest of the cohort's labels; a label map counts by the size and time of its file, wherever it lies.

    So do the recipe's tables of vectors, which come from outside of the workspace too.
    """
    from ctplatform.cohort.table import LUNG_MASK, names_label_maps
    from ctplatform.imaging.fingerprint import fingerprint

    labels = state.cohort[[name for name in state.cohort if name not in (*IDENTITY[2:], LUNG_MASK)]]
    maps = [name for name in labels if names_label_maps(labels[name].tolist())]
    labels = labels.assign(
        **{n: [fingerprint(v) if isinstance(v, str) else "" for v in labels[n]] for n in maps}
    )
    if not len(labels):
        return ""
    text = labels.sort_values("scan_id").to_csv(index=False)
    external = {name: fingerprint(path) for name, path in sorted(state.recipe.sweep.external.items())}
    return config_hash(text, external) if external else config_hash(text)
