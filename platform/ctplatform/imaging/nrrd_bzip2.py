"""NRRD files whose voxels are packed by bzip2, which SimpleITK cannot unpack: as one file with raw voxels.

Lines are skipped in a packed file, bytes in what it unpacks to, and each of several data files is packed by itself.
Source: the NRRD format (teem.sourceforge.net/nrrd).
"""

from __future__ import annotations

import bz2
import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from ctplatform.errors import ScanError
from ctplatform.imaging.data_files import HEADER_BYTES, data_file, data_files, header_fields
from ctplatform.imaging.limits import unpacked_limit, unpacks_to_more
from ctplatform.imaging.volume_checks import incomplete, truncated

ENCODINGS = {"bz2", "bzip2"}
CHUNK_BYTES = 1 << 20

_HEADER_END = re.compile(rb"\n\r?\n")
_OF_THE_DATA = re.compile(r"\s*(data ?file|line ?skip|byte ?skip|encoding):(?!=)", re.I)


def is_bzip2(fields: Mapping[str, str]) -> bool:
    """Whether the fields of a NRRD header say so."""
    return fields.get("encoding", "").lower() in ENCODINGS


@contextlib.contextmanager
def as_raw(path: Path, *, needed: int = 0) -> Iterator[Path]:
    """A temporary NRRD file with the same header, raw, under a name that identifies nobody.

    Args:
        path: of the header; its data files lie in its folder (`data_files.check_data_files`).
        needed: bytes of the voxels that follow; 0: the header alone.

    Raises:
        ScanError: truncated; unreadable; bad-header; too-large, where more bytes follow than needed.
    """
    fields = header_fields(path, "NRRD")
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        target = Path(folder) / "scan.nrrd"
        with path.open("rb") as source, target.open("wb") as out:
            head = source.read(HEADER_BYTES)
            end = _HEADER_END.search(head)
            out.write(_raw_header(head[: end.start()] if end else head))
            if needed:
                named = data_file(fields, "NRRD")
                parts = data_files(path, named, "NRRD")
                if not all(part.exists() for part in parts) or not (parts or end):
                    raise incomplete(named)
                with contextlib.ExitStack() as stack:
                    streams = [stack.enter_context(part.open("rb")) for part in parts]
                    if end and not parts:
                        source.seek(end.end())
                        streams = [source]
                    if _unpack(streams, out, fields, unpacked_limit(needed)) < needed:
                        raise incomplete(named)
        yield target


def _raw_header(head: bytes) -> bytes:
    lines = head.decode("latin-1").replace("\r", "").split("\n")
    kept = []
    for line in lines:
        if re.match(r"data ?file:\s*LIST\b", line, re.I):
            break  # the names of the data files follow
        if line and not _OF_THE_DATA.match(line):
            kept.append(line)
    return "\n".join([*kept, "encoding: raw", "", ""]).encode("latin-1")


def _unpack(streams: list[BufferedReader], out: BinaryIO, fields: Mapping[str, str], limit: int) -> int:
    """Write what the streams hold from where they stand; returns the number of bytes."""
    lines, first, count = _skip(fields, "line"), _skip(fields, "byte"), 0
    for stream in streams:
        for _ in range(lines):
            stream.readline(CHUNK_BYTES)
        for chunk in _chunks(stream, first):
            count += len(chunk)
            if count > limit:
                raise unpacks_to_more()
            out.write(chunk)
    return count


def _chunks(stream: BufferedReader, skip: int) -> Iterator[bytes]:
    """What a stream unpacks to, less so many bytes at its start."""
    try:
        with bz2.BZ2File(stream) as unpacked:
            while skip > 0 and (passed := len(unpacked.read(min(skip, CHUNK_BYTES)))):
                skip -= passed
            while chunk := unpacked.read(CHUNK_BYTES):
                yield chunk
    except EOFError:
        raise truncated() from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ScanError(
            "the voxel data of the NRRD file is damaged, or is not packed by bzip2 as its header says",
            "Copy or export the scan again",
            code="unreadable",
        ) from None


def _skip(fields: Mapping[str, str], name: str) -> int:
    value = fields.get(f"{name} skip", fields.get(f"{name}skip", "0"))
    if not re.fullmatch(r"\d{1,9}", value):
        raise ScanError(
            f"the {name} skip of the NRRD header is none that data packed by bzip2 can have",
            "Export the scan again",
            code="bad-header",
        )
    return int(value)
