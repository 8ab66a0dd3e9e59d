"""Representations that frozen heads are fitted on: a vector a subject, of a run's embeddings or of lung density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctplatform.dataset.ledger import DENSITY
from ctplatform.errors import StageError
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace


@dataclass(frozen=True)
class Representation:
    """Subjects (sorted) and their vectors, x_NP float64; several scans of a subject are averaged."""

    subjects: tuple[str, ...]
    x_NP: np.ndarray

    def of(self, subjects: tuple[str, ...]) -> np.ndarray:
        """The vectors of these subjects, in this order."""
        place = {subject: row for row, subject in enumerate(self.subjects)}
        return self.x_NP[[place[subject] for subject in subjects]]


def read_representation(workspace: Workspace, name: str, *, run: str, scans: pd.DataFrame) -> Representation:
    """A representation of all usable scans.

    Args:
        workspace: holds `embeddings/<run>/patients-<name>.parquet`.
        name: an encoder's name, or `density` for LAA-950, Perc15 and lung volume from the ledger.
        run: the pretraining run.
        scans: the ledger's usable rows.

    Raises:
        StageError: the file does not exist, or holds none of these scans.
    """
    if name == "density":
        table = scans[["scan_id", "subject_id"]].copy()
        vectors = scans[list(DENSITY)].to_numpy(float)
    else:
        table = workspace.read_table(*layout.patient_vectors(run, name)).to_pandas()
        vectors = np.stack(table["vector"].to_list()).astype(float) if len(table) else np.empty((0, 1))
    keep = np.isfinite(vectors).all(1) & table["scan_id"].isin(scans["scan_id"]).to_numpy()
    if not keep.any():
        raise StageError(
            f"the representation {name!r} of run {run} holds none of the {len(scans)} usable scans",
            "Run `drasclr embed` again",
            code="missing",
        )
    # Subjects are those of the ledger, not those that were stored with the vectors.
    owner = scans.set_index("scan_id")["subject_id"].astype(str)
    frame = (
        pd.DataFrame(vectors[keep]).groupby(owner.loc[table["scan_id"][keep]].to_numpy()).mean().sort_index()
    )
    return Representation(tuple(frame.index), frame.to_numpy())
