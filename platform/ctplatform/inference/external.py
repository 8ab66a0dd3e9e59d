"""Vectors of an encoder of one's own, computed elsewhere: a table with a row a scan, or a folder with a file a scan."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pandas as pd

from ctplatform.errors import StageError
from ctplatform.storage.workspace import Workspace

IDS = ("scan_id", "subject_id")
VECTOR, NPZ = "vector", ".npz"
REMEDY = (
    "Give .parquet or .csv with scan_id and either a list column `vector` or a column of numbers for each feature, or "
    "a folder with <scan_id>.npz, each with an array `vector`"
)


def read_external(path: str) -> tuple[list[str], np.ndarray]:
    """Scan ids and their vectors, float64 [N, P]; a scan whose vector has a missing value is left out.

    Args:
        path: .parquet or .csv, file or URI, with `scan_id`, and either a list column `vector`, or numbers in all other
            columns but `subject_id`; or a folder of `<scan_id>.npz`, each with an array `vector` or one array alone.

    Raises:
        StageError: it cannot be read, holds no vectors or vectors of different lengths, or names a scan twice.
    """
    folder, _, name = path.partition("?")[0].rstrip("/").rpartition("/")
    options = path.partition("?")[2]
    place = Workspace(f"{folder or '.'}?{options}" if options else folder or ".")
    if name in place.folders():
        return _read_folder(path, place, name)
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
        x_NP = _stacked(
            path, [None if value is None else np.asarray(value, float) for value in table[VECTOR]]
        )
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


def _read_folder(path: str, place: Workspace, name: str) -> tuple[list[str], np.ndarray]:
    files = place.files(name, suffix=NPZ)
    if not files:
        raise StageError(f"{path} holds no {NPZ} file", REMEDY, code="vectors")
    vectors: list[np.ndarray | None] = []
    for file in files:
        try:
            with np.load(io.BytesIO(place.read_bytes(name, file))) as arrays:
                only = arrays.files[0] if len(arrays.files) == 1 else VECTOR
                vector = np.asarray(arrays[only], float)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StageError(f"{path}/{file} cannot be read: {error}", REMEDY, code="vectors") from None
        if vector.ndim != 1:
            shape = list(vector.shape)
            raise StageError(f"{path}/{file} has an array of shape {shape}, not [P]", REMEDY, code="vectors")
        vectors.append(vector)
    x_NP = _stacked(path, vectors)
    keep_N = np.isfinite(x_NP).all(1)
    ids = [file.removesuffix(NPZ) for file in files]
    return [scan_id for scan_id, keep in zip(ids, keep_N) if keep], x_NP[keep_N]


def _stacked(path: str, vectors: list[np.ndarray | None]) -> np.ndarray:
    """[N, P]; nan where there is no vector."""
    lengths = {len(vector) for vector in vectors if vector is not None}
    if len(lengths) != 1:
        raise StageError(f"{path}: vectors have lengths {sorted(lengths) or 'none'}", REMEDY, code="vectors")
    nothing = np.full(lengths.pop(), np.nan)
    return np.stack([nothing if vector is None else vector for vector in vectors])
