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
        scan_ids, vectors = scans["scan_id"], scans[list(DENSITY)].to_numpy(float)
    else:
        table = workspace.read_table(*layout.patient_vectors(run, name)).to_pandas()
        scan_ids = table["scan_id"]
        vectors = np.stack(table["vector"].to_list()).astype(float) if len(table) else np.empty((0, 1))
    found = representation_of(scan_ids, vectors, scans=scans)
    if found is None:
        raise StageError(
            f"the representation {name!r} of run {run} holds none of the {len(scans)} usable scans",
            "Run `drasclr embed` again",
            code="missing",
        )
    return found


def representation_of(scan_ids: pd.Series, x_NP: np.ndarray, *, scans: pd.DataFrame) -> Representation | None:
    """Vectors of scans as those of subjects; None if none of the usable scans has a finite one.

    Args:
        scan_ids: of the vectors.
        x_NP: a vector a scan.
        scans: the ledger's usable rows.
    """
    keep = np.isfinite(x_NP).all(1) & scan_ids.isin(scans["scan_id"]).to_numpy()
    if not keep.any():
        return None
    # Subjects are those of the ledger, not those that were stored with the vectors.
    owner = scans.set_index("scan_id")["subject_id"].astype(str)
    frame = pd.DataFrame(x_NP[keep]).groupby(owner.loc[scan_ids[keep]].to_numpy()).mean().sort_index()
    return Representation(tuple(frame.index), frame.to_numpy())
