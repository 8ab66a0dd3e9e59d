"""Files of scan vectors: a table a scan (Parquet, CSV), arrays (npz), and the vectors of patches (Parquet)."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.dataset.ledger import MEASURES, SCHEMA
from ctplatform.errors import StageError
from ctplatform.inference.scan_embedding import EmbeddedScan

FORMATS = (".parquet", ".csv", ".npz")
#: Columns of a table of vectors before `vector`; those of the ledger have its types.
COLUMNS = (
    *("scan_id", "subject_id", "path", "state", "reason", "remedy", "code", "notes"),
    *MEASURES,
    *("affine", "source", "content_hash", "atlas_hash", "weights", "pooling", "software"),
)
_TYPES = {field.name: field.type for field in SCHEMA}


def check_output(path: str | Path, formats: Sequence[str] = FORMATS) -> Path:
    """A file that can be written, its folder made.

    Raises:
        StageError: another suffix, or its folder cannot be made.
    """
    target = Path(path).expanduser()
    if target.suffix not in formats:
        raise StageError(
            f"{path} has no suffix of a table of vectors", f"Use {' or '.join(formats)}", code="usage"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StageError(
            f"the folder of {path} cannot be made: {error.strerror}", "Give another path", code="usage"
        ) from None
    return target


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside a file, which replaces it when the block ends without an error."""
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_vectors(path: Path, scans: Sequence[EmbeddedScan]) -> None:
    """One row a scan, in the given order, whole or not at all; a scan without vectors has an empty one.

    - .parquet: `COLUMNS` and `vector`, a list of float32.
    - .csv: `COLUMNS`, lists as JSON, and `v0`, `v1`, ...
    - .npz: scan_id, state and reason [S]; patient_SP, patches_SNP, inside_SN, centres_mm_SN3, affine_S44, NaN where
      there is none. Holds all patches in memory: for up to some hundred scans.
    """
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **_arrays(scans))
        elif path.suffix == ".csv":
            _frame(scans).to_csv(temporary, index=False, lineterminator="\n")
        else:
            pq.write_table(_table(scans), temporary, compression="zstd")


class PatchFile:
    """Parquet of patch vectors, scan by scan as they come.

    Columns: scan_id, location, inside (fraction in the scan), x_mm, y_mm, z_mm (centre, LPS of the scan), vector.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: pq.ParquetWriter | None = None

    def add(self, scan: EmbeddedScan) -> None:
        """Write the patches of a scan that has vectors, as one row group."""
        found = scan.embedding
        if found is None or found.patches_NP is None:
            return
        count = len(found.patches_NP)
        table = pa.table(
            {
                "scan_id": pa.array([scan.row["scan_id"]] * count).dictionary_encode(),
                "location": np.arange(count, dtype=np.int32),
                "inside": found.inside_N.astype(np.float32),
                **{f"{axis}_mm": found.centres_mm_N3[:, i] for i, axis in enumerate("xyz")},
                "vector": pa.FixedSizeListArray.from_arrays(
                    pa.array(found.patches_NP.ravel()), found.patches_NP.shape[1]
                ),
            }
        )
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=count)

    def close(self) -> None:
        """Complete the file; without any vectors it has no rows."""
        if self._writer is None:
            columns = {"scan_id": pa.string(), "location": pa.int32(), "inside": pa.float32()}
            pq.write_table(pa.schema(columns).empty_table(), self.path)
        else:
            self._writer.close()


def _vector(scan: EmbeddedScan) -> np.ndarray | None:
    return scan.embedding.patient_P if scan.embedding else None


def _table(scans: Sequence[EmbeddedScan]) -> pa.Table:
    columns = {
        name: pa.array([scan.row.get(name) for scan in scans], _TYPES.get(name, pa.string()))
        for name in _columns(scans)
    }
    vectors = [_vector(scan) for scan in scans]
    columns["vector"] = pa.array([None if v is None else v.tolist() for v in vectors], pa.list_(pa.float32()))
    return pa.table(columns)


def _frame(scans: Sequence[EmbeddedScan]) -> Any:
    import pandas as pd

    rows = []
    for scan in scans:
        row = {name: scan.row.get(name) for name in _columns(scans)}
        row["affine"] = json.dumps(row["affine"]) if row["affine"] else ""
        vector = _vector(scan)
        rows.append(row | ({} if vector is None else {f"v{i}": value for i, value in enumerate(vector)}))
    return pd.DataFrame(rows)


def _columns(scans: Sequence[EmbeddedScan]) -> list[str]:
    """`COLUMNS`; without `path` where a scan table says which file a scan_id is."""
    listed = all("path" not in scan.row for scan in scans)
    return [name for name in COLUMNS if not (name == "path" and listed)]


def _arrays(scans: Sequence[EmbeddedScan]) -> dict[str, np.ndarray]:
    names = {
        "patient_SP": "patient_P",
        "patches_SNP": "patches_NP",
        "inside_SN": "inside_N",
        "centres_mm_SN3": "centres_mm_N3",
        "affine_S44": "affine",
    }
    arrays = {
        name: np.array([str(scan.row[name]) for scan in scans]) for name in ("scan_id", "state", "reason")
    }
    for name, attribute in names.items():
        values = [getattr(scan.embedding, attribute, None) for scan in scans]
        shape = next((value.shape for value in values if value is not None), None)
        if shape is not None:
            arrays[name] = np.stack([np.full(shape, np.nan) if v is None else v for v in values])
            arrays[name] = arrays[name].astype(np.float64 if name.endswith(("3", "4")) else np.float32)
    return arrays
