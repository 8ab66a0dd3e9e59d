"""Vectors of an encoder of one's own, computed elsewhere: a table with a row a scan."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from ctplatform.errors import StageError
from ctplatform.storage.workspace import Workspace

IDS = ("scan_id", "subject_id")
VECTOR = "vector"
REMEDY = "Give .parquet or .csv with scan_id and either a list column `vector` or a column of numbers for each feature"


def read_external(path: str) -> tuple[list[str], np.ndarray]:
    """Scan ids and their vectors, float64 [N, P]; a scan whose vector has a missing value is left out.

    Args:
        path: .parquet or .csv, file or URI, with `scan_id`, and either a list column `vector`, or numbers in all other
            columns but `subject_id`.

    Raises:
        StageError: it cannot be read, holds no vectors or vectors of different lengths, or names a scan twice.
    """
    folder, _, name = path.partition("?")[0].rpartition("/")
    options = path.partition("?")[2]
    place = Workspace(f"{folder or '.'}?{options}" if options else folder or ".")
    if not name.endswith((".parquet", ".csv")) or not place.exists(name):
        raise StageError(f"there is no table of vectors {path}", REMEDY, code="vectors")
    data = io.BytesIO(place.read_bytes(name))
    try:
        table = (
            pd.read_parquet(data) if name.endswith(".parquet") else pd.read_csv(data, dtype={"scan_id": str})
        )
    except (OSError, ValueError) as error:
        raise StageError(f"{path} cannot be read: {error}", REMEDY, code="vectors") from None
    if "scan_id" not in table:
        raise StageError(f"{path} has no column 'scan_id'", REMEDY, code="vectors")
    ids = table["scan_id"].astype(str)
    if ids.duplicated().any():
        raise StageError(
            f"{path} has more than one vector of scan {ids[ids.duplicated()].iloc[0]!r}",
            "Keep one row a scan",
            code="vectors",
        )
    if VECTOR in table:
        lists = [None if value is None else np.asarray(value, float) for value in table[VECTOR]]
        lengths = {len(value) for value in lists if value is not None}
        if len(lengths) != 1:
            raise StageError(
                f"{path}: vectors have lengths {sorted(lengths) or 'none'}", REMEDY, code="vectors"
            )
        nothing = np.full(lengths.pop(), np.nan)
        x_NP = np.stack([nothing if value is None else value for value in lists])
    else:
        features = table.drop(columns=[name for name in IDS if name in table])
        others = list(features.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in features.dtypes]])
        if others or not len(features.columns):
            what = (
                f"columns that are no numbers: {', '.join(map(str, others))}"
                if others
                else "no column of numbers"
            )
            raise StageError(f"{path} has {what}", REMEDY, code="vectors")
        x_NP = features.to_numpy(float)
    keep_N = np.isfinite(x_NP).all(1)
    return ids[keep_N].tolist(), x_NP[keep_N]
