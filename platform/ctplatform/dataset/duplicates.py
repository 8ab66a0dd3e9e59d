"""Near-duplicate scans: one acquisition that is in the cohort twice, reconstructed, cropped or resampled again.

Identical images have the same content hash. Scans that differ in every voxel are compared by signature: mean HU of 8 mm
cubes at the same atlas locations of every scan, minus the mean of all scans. Signatures of one acquisition correlate,
whatever the kernel, the slice thickness or the field of view; those of two people do not. They are computed from the
shards, once a scan.

Shape legend: S scans, L locations, F cubes, B scans of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from ctplatform.compute.fan_out import fan_out
from ctplatform.config.digest import config_hash
from ctplatform.dataset import shards
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.storage.layout import SIGNATURES_FILE
from ctplatform.storage.workspace import Workspace

logger = logging.getLogger(__name__)
CUBE = 8  # voxels of 1 mm
WINDOW = (-1000.0, -300.0)  # HU of lung: limits the weight of a chest wall that is a little misregistered
BATCH = 512  # scans correlated with all others in one matrix product
SCANS_A_TASK = 16


@dataclass(frozen=True)
class Pair:
    """Two scans that look like one acquisition, and the correlation of their signatures."""

    a: str
    b: str
    correlation: float

    def __str__(self) -> str:
        return f"{self.a} and {self.b} (correlation {self.correlation:.2f})"


def near_duplicates(workspace: Workspace, scans: pd.DataFrame, *, alike_above: float) -> list[Pair]:
    """Pairs of these scans that are near-duplicates, highest correlation first; without those of equal content hash.

    Args:
        workspace: holds the shards; receives the signatures that are missing.
        scans: `scan_id`, `content_hash` and `atlas_hash`, as in the ledger.
        alike_above: correlation above which two scans are near-duplicates (`split.alike_above`); 1 or more: none are.
    """
    if alike_above >= 1:
        return []
    signature_SF, names = signatures(workspace, scans)
    content = scans.drop_duplicates("scan_id").set_index("scan_id")["content_hash"].fillna("").astype(str)
    return [
        pair
        for pair in alike(signature_SF, names, alike_above=alike_above)
        if not content[pair.a] or content[pair.a] != content[pair.b]
    ]


def alike(signature_SF: np.ndarray, names: Sequence[str], *, alike_above: float) -> list[Pair]:
    """Pairs whose signatures, minus the mean of all scans, correlate by more than the threshold.

    None of fewer than three scans: two scans minus their mean are each other's negative.
    """
    if len(names) < 3:
        return []
    rest_SF = signature_SF - signature_SF.mean(0, dtype=np.float64).astype(np.float32)
    rest_SF -= rest_SF.mean(1, keepdims=True)
    rest_SF /= np.maximum(np.linalg.norm(rest_SF, axis=1, keepdims=True), 1e-9)
    found = []
    for start in range(0, len(names), BATCH):
        product_BS = rest_SF[start : start + BATCH] @ rest_SF[start:].T
        # A little below the threshold, for rounding in single precision; candidates are recomputed in double.
        for row, column in np.argwhere(product_BS > alike_above - 1e-3):
            if row < column:
                first, second = start + int(row), start + int(column)
                correlation = float(np.corrcoef(rest_SF[first], rest_SF[second], dtype=np.float64)[0, 1])
                if correlation > alike_above:
                    a, b = sorted((names[first], names[second]))
                    found.append(Pair(a, b, correlation))
    return sorted(found, key=lambda pair: (-pair.correlation, pair.a, pair.b))


def signatures(workspace: Workspace, scans: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Signatures [S, F] of these scans, and their ids. Missing ones are computed, by Ray tasks if Ray is connected."""
    rows = scans.drop_duplicates("scan_id").sort_values("scan_id")
    keys = {
        str(row.scan_id): config_hash(f"{row.content_hash}|{row.atlas_hash}|{CUBE}|{WINDOW}")
        for row in rows.itertuples()
    }
    known: dict[str, bytes] = {}
    if workspace.exists(SIGNATURES_FILE):
        for row in workspace.read_table(SIGNATURES_FILE).to_pylist():
            if keys.get(row["scan_id"]) == row["key"]:
                known[row["scan_id"]] = row["signature"]
    missing = [scan for scan in keys if scan not in known]
    if missing:
        parts = [missing[i : i + SCANS_A_TASK] for i in range(0, len(missing), SCANS_A_TASK)]
        for part, made in zip(parts, _signatures_of(workspace, parts), strict=True):
            known |= dict(zip(part, made, strict=True))
        table = pa.table(
            {
                "scan_id": list(keys),
                "key": [keys[scan] for scan in keys],
                "signature": pa.array([known[scan] for scan in keys], pa.binary()),
            }
        )
        workspace.write_table(table, SIGNATURES_FILE)
    # A scan without a shard has an empty signature, and no pair.
    names = [scan for scan in keys if known[scan]]
    stacked = [np.frombuffer(known[scan], "<f2").astype(np.float32) for scan in names]
    return (np.stack(stacked) if stacked else np.empty((0, 1), np.float32)), names


def signature(hu_LDHW: np.ndarray) -> np.ndarray:
    """Mean HU of the cubes of some patches, clipped to lung before averaging, [F] float32."""
    count, side = hu_LDHW.shape[0], hu_LDHW.shape[1]
    cube = min(CUBE, side)
    kept = side // cube * cube
    clipped = np.clip(hu_LDHW[:, :kept, :kept, :kept].astype(np.float32), *WINDOW)
    parts = kept // cube
    cubes = clipped.reshape(count, parts, cube, parts, cube, parts, cube)
    return np.asarray(cubes.mean((2, 4, 6)).ravel())


def read_signature(workspace: Workspace, scan_id: str, blocks: Sequence[int]) -> np.ndarray:
    """The signature of a scan over the patches of some of the atlas's blocks."""
    found = [shards.read_block(workspace, scan_id, block) for block in blocks]
    return np.concatenate([signature(block.hu_NDHW[block.home_N]) for block in found])


def chosen_blocks(count: int) -> list[int]:
    """Every fourth of the atlas's blocks, which find as many pairs as all of them; all of fewer than eight."""
    return list(range(1, count, 4)) if count >= 8 else list(range(count))


def _signatures_of(workspace: Workspace, parts: list[list[str]]) -> list[list[bytes]]:
    import ray

    if not ray.is_initialized():
        return [_part(workspace, part) for part in parts]
    task = ray.remote(num_cpus=1)(_part)
    return fan_out(lambda part: task.remote(workspace, part), parts)


def _part(workspace: Workspace, scan_ids: list[str]) -> list[bytes]:
    blocks = chosen_blocks(read_atlas(workspace).num_blocks)
    made = []
    for scan_id in scan_ids:
        try:
            made.append(read_signature(workspace, scan_id, blocks).astype("<f2").tobytes())
        except StageError as error:
            logger.info("no signature of %s: %s", scan_id, error)
            made.append(b"")
    return made
