"""The Parquet shard: one scan's patches, one row group a block of locations, readable without this package.

Rows of a row group: the locations of one block (`home`), then its halo (`home` = False): locations of other blocks
that are neighbours of a location in this one, stored again so that training never makes a second read. Rows are
sorted by location within each part. A patch is `patch_dtype` bytes in `patch_axes` order (z, y, x along LPS), HU;
the keys of the file's metadata below say so to any reader.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.errors import StageError
from ctplatform.storage import layout
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

FORMAT_VERSION = 1
DTYPE = np.dtype("<i2")
LEVELS = {"fast": -15, "small": 3}
"""zstd levels of `prepare.shards.compression`; any level is read (docs/decisions/0004-reading-shards.md). The fast one
does without entropy coding of literals: several times faster to read, for files half as large again."""

SCHEMA = pa.schema(
    [
        pa.field("scan_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("subject_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("block", pa.int32()),
        pa.field("location", pa.int32()),
        pa.field("home", pa.bool_()),
        pa.field("inside", pa.float32()),
        pa.field("patch", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Block:
    """One row group: a scan's patches of one block, halo included.

    Shapes: locations_N int32, home_N bool, inside_N float32 (fraction of the patch inside the scan), hu_NDHW int16 HU.
    `hu_NDHW` is a read-only view of the file's bytes.
    """

    locations_N: np.ndarray
    home_N: np.ndarray
    inside_N: np.ndarray
    hu_NDHW: np.ndarray


def encode(
    *,
    scan_id: str,
    subject_id: str,
    hu_NDHW: np.ndarray,
    inside_N: np.ndarray,
    atlas: Atlas,
    metadata: dict[str, Any],
    level: int = LEVELS["fast"],
) -> tuple[bytes, bytes]:
    """One scan's shard.

    Args:
        scan_id: the scan; its file will be `patches/<scan_id>.parquet`.
        subject_id: the scan's subject.
        hu_NDHW: int16 HU, one patch for each of the atlas's locations, in their order.
        inside_N: fraction of each patch inside the scan, 0 to 1.
        atlas: locations, blocks and neighbours.
        metadata: further provenance for the file's key-value metadata.
        level: zstd level.

    Returns:
        The file's bytes, and its footer (as a Parquet metadata file) for the ledger.

    Raises:
        ValueError: the number or shape of the patches does not fit the atlas.
    """
    side = atlas.patch_size
    if hu_NDHW.shape != (atlas.num_locations, side, side, side) or hu_NDHW.dtype != np.int16:
        raise ValueError(
            f"{scan_id}: patches are {hu_NDHW.dtype} {hu_NDHW.shape}, the atlas requires int16 "
            f"{(atlas.num_locations, side, side, side)}"
        )
    texts = {
        "format_version": FORMAT_VERSION,
        "patch_shape": f"{side},{side},{side}",
        "patch_dtype": "int16 little-endian",
        "patch_axes": "z,y,x along LPS",
        "patch_unit": "HU",
        "scan_id": scan_id,
        "atlas_hash": atlas.hash,
        **metadata,
    }
    schema = SCHEMA.with_metadata({f"drasclr.{key}": str(value) for key, value in texts.items()})
    sink = io.BytesIO()  # Arrow's own keeps its memory for the next one, twice the shard's size
    with pq.ParquetWriter(
        pa.PythonFile(sink, "w"),
        schema,
        compression="zstd",
        compression_level=level,
        use_dictionary=["scan_id", "subject_id"],
    ) as writer:
        for block in range(atlas.num_blocks):
            rows, home = row_order(atlas, block)
            raw = np.ascontiguousarray(hu_NDHW[rows]).astype(DTYPE, copy=False).reshape(len(rows), -1)
            writer.write_table(
                pa.table(
                    {
                        "scan_id": pa.array([scan_id] * len(rows)).dictionary_encode(),
                        "subject_id": pa.array([subject_id] * len(rows)).dictionary_encode(),
                        "block": np.full(len(rows), block, np.int32),
                        "location": rows,
                        "home": np.arange(len(rows)) < home,
                        "inside": inside_N[rows].astype(np.float32),
                        "patch": _binary(raw),
                    },
                    schema=schema,
                ),
                row_group_size=len(rows),
            )
    data = sink.getvalue()
    footer = pa.BufferOutputStream()
    pq.read_metadata(pa.BufferReader(data)).write_metadata_file(footer)
    return data, footer.getvalue().to_pybytes()


def row_order(atlas: Atlas, block: int) -> tuple[np.ndarray, int]:
    """Locations of a row group's rows, int32, and the number of those, first in order, that are the block's own."""
    home, halo = np.sort(atlas.members(block)), np.sort(atlas.halo(block))
    return np.concatenate([home, halo]).astype(np.int32), len(home)


def read_footer(footer: bytes) -> pq.FileMetaData:
    """Metadata of a shard from the bytes in the ledger's column `footer`."""
    return pq.read_metadata(pa.BufferReader(footer))


def footer_of(workspace: Workspace, scan_id: str) -> pq.FileMetaData:
    """Metadata of a shard from the file itself; pass it to `read_block` where many blocks are read.

    Raises:
        StageError: there is no shard of that scan.
    """
    return _open(workspace, scan_id, None).metadata


def read_block(
    workspace: Workspace, scan_id: str, block: int, *, footer: pq.FileMetaData | None = None
) -> Block:
    """Read one row group: one contiguous range of the file, and nothing else when `footer` is given.

    Raises:
        StageError: there is no shard of that scan.
    """
    return _block(_open(workspace, scan_id, footer).read_row_group(block, columns=_COLUMNS))


def read_patches(
    workspace: Workspace, scan_id: str, locations: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A scan's patches, each location once, sorted by location.

    Args:
        workspace: holds the shard.
        scan_id: of the scan.
        locations: only these; row groups without one of them are not read. None: all.

    Returns:
        locations_N int32 and hu_NDHW int16 HU.
    """
    file = _open(workspace, scan_id, None)
    groups = list(range(file.num_row_groups))
    if locations is not None:
        # All row groups' locations in one read, then the patches of the right ones in a second.
        rows = file.read_row_groups(groups, columns=["block", "location", "home"])
        here = rows.column("home").to_numpy() & np.isin(rows.column("location").to_numpy(), locations)
        groups = np.unique(rows.column("block").to_numpy()[here]).tolist()
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for index in groups:
        block = _block(file.read_row_group(index, columns=_COLUMNS))
        keep = block.home_N
        if locations is not None:
            keep = keep & np.isin(block.locations_N, locations)
        found.append((block.locations_N[keep], block.hu_NDHW[keep]))
    if not found:
        raise StageError(
            f"{scan_id}: none of the requested locations is in its shard", "Check the atlas", code="shard"
        )
    locations_N = np.concatenate([part for part, _ in found])
    order = np.argsort(locations_N, kind="stable")
    return locations_N[order], np.concatenate([part for _, part in found])[order]


_COLUMNS = ["location", "home", "inside", "patch"]


def _open(workspace: Workspace, scan_id: str, footer: pq.FileMetaData | None) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream(workspace, scan_id), metadata=footer)
    except pa.ArrowInvalid:
        raise StageError(
            f"the shard of scan {scan_id} in {workspace.display(PATCHES)} is damaged: it is no whole Parquet file",
            "Run `drasclr verify --discard`, then `drasclr prepare`, which makes it again",
            code="shard",
        ) from None


def stream(workspace: Workspace, scan_id: str) -> pa.NativeFile:
    """A shard, opened for random access.

    Raises:
        StageError: there is no shard of that scan.
    """
    try:
        return workspace.fs.open_input_file(workspace.path(*layout.shard(scan_id)))
    except FileNotFoundError:
        raise missing(workspace, scan_id) from None


def missing(workspace: Workspace, scan_id: str) -> StageError:
    """The error for a scan without a shard."""
    return StageError(
        f"scan {scan_id} has no shard in {workspace.display(PATCHES)}",
        "Run `drasclr prepare` again; it redoes only what is missing",
        code="missing",
    )


def _block(table: pa.Table) -> Block:
    side = round((len(table.column("patch")[0].as_buffer()) // DTYPE.itemsize) ** (1 / 3))
    patches = [
        np.frombuffer(chunk.buffers()[2], DTYPE).reshape(-1, side, side, side)[: chunk.offset + len(chunk)][
            chunk.offset :
        ]
        for chunk in table.column("patch").chunks
    ]
    return Block(
        locations_N=table.column("location").to_numpy(),
        home_N=table.column("home").to_numpy(),
        inside_N=table.column("inside").to_numpy(),
        hu_NDHW=patches[0] if len(patches) == 1 else np.concatenate(patches),
    )


def _binary(raw: np.ndarray) -> pa.Array:
    """A binary column that shares the array's memory."""
    count, size = raw.shape[0], raw.shape[1] * raw.itemsize
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(size)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(raw)])
