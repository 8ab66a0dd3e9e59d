"""Text headers of NRRD and MetaImage files, and the separate data files that they name.

A header may name any file of the machine: another patient's voxels, or a device. Only files in the header's own folder,
or below it, are read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ctplatform.errors import ScanError
from ctplatform.imaging.files import volume_suffix
from ctplatform.imaging.limits import check_regular

HEADER_BYTES = 1 << 16
MAX_DIMENSIONS, MAX_SIZE, MAX_VALUE = 9, 1 << 31, 4000
#: Fields of a MetaImage header that hold one number a dimension, or a matrix of them; each may occur once.
ARRAYS = {
    "NDims": "",
    "DimSize": "",
    "ElementSpacing": "vector",
    "ElementSize": "vector",
    "Offset": "vector",
    "Position": "vector",
    "Origin": "vector",
    "CenterOfRotation": "vector",
    "TransformMatrix": "matrix",
    "Rotation": "matrix",
    "Orientation": "matrix",
    "ElementNumberOfChannels": "",
    "ElementType": "",
}
SYNONYMS = (
    ("TransformMatrix", "Rotation", "Orientation"),
    ("Offset", "Position", "Origin"),
    ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
)
"""Names of one field of a MetaImage header."""

ELEMENT_TYPES = {
    f"MET_{sign}{kind}" for sign in ("", "U") for kind in ("CHAR", "SHORT", "INT", "LONG", "LONG_LONG")
} | {"MET_FLOAT", "MET_DOUBLE"}
#: Data files of one header.
MAX_FILES = 10_000


def form_of(path: Path) -> str:
    """NRRD or MetaImage, by the suffix."""
    return "NRRD" if volume_suffix(path) in (".nrrd", ".nhdr") else "MetaImage"


def header_fields(path: Path, form: str) -> dict[str, str]:
    """Fields of a text header; names of NRRD fields in lower case.

    Raises:
        ScanError: not-a-file.
    """
    check_regular(path)
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES).replace(b"\r", b"")
    fields: dict[str, str] = {}
    if form == "NRRD":
        for line in head.split(b"\n\n")[0].decode("latin-1").split("\n"):
            match = re.match(r"([A-Za-z][^:=#]*):(?!=)\s*(.*)", line)
            if match:
                fields[match.group(1).strip().lower()] = match.group(2).strip()
        return fields
    for line in head.decode("latin-1").split("\n"):
        name, *values = (part.strip() for part in re.split("[=:]", line, maxsplit=1))
        if name in fields and name in ARRAYS:  # ITK takes memory by one, and fills it by the other
            raise _no_sense(name)
        fields[name] = values[0] if values else ""
        if name == "ElementDataFile":
            break
    return fields


def check_metaimage(fields: Mapping[str, str]) -> None:
    """Refuse sizes and types that make no sense: the library that reads MetaImage crashes on some of them.

    Raises:
        ScanError: bad-header.
    """
    count = _whole_numbers(fields.get("NDims", ""))
    if len(count) != 1 or not 1 <= count[0] <= MAX_DIMENSIONS:
        raise _no_sense("NDims")
    size = _whole_numbers(fields.get("DimSize", ""))
    if len(size) != count[0] or min(size) < 1 or max(size) > MAX_SIZE:
        raise _no_sense("DimSize")
    for name, expected in ARRAYS.items():
        wanted = count[0] ** 2 if expected == "matrix" else count[0]
        if expected and name in fields and len(_numbers(fields[name])) != wanted:
            raise _no_sense(name)
    for names in SYNONYMS:
        given = [_value(fields[name]) for name in names if name in fields]
        if any(value != given[0] for value in given):
            raise ScanError(
                f"{' and '.join(name for name in names if name in fields)} of the header contradict each other",
                "Find out which is right, and remove the other",
                code="bad-header",
            )
    if fields.get("ElementType", "") not in ELEMENT_TYPES:
        raise _no_sense("ElementType")
    channels = fields.get("ElementNumberOfChannels", "1")
    if not re.fullmatch(r"[1-9]\d?", channels):
        raise _no_sense("ElementNumberOfChannels")
    for name in ("HeaderSize", "CompressedDataSize"):
        if name in fields and not re.fullmatch(r"-1|\d{1,15}", fields[name]):
            raise _no_sense(name)
    if not fields.get("ElementDataFile"):
        raise _no_sense("ElementDataFile")
    if any(len(value) > MAX_VALUE for value in fields.values()):
        raise _no_sense(next(name for name, value in fields.items() if len(value) > MAX_VALUE))


def check_orientation(fields: Mapping[str, str]) -> list[str]:
    """Compare the anatomical orientation of a MetaImage header with its matrix, which counts; returns notes.

    Its letters say where the axes x, y, z of the voxels come from, so that RAI is LPS order (MetaIO documentation).

    Raises:
        ScanError: bad-space, where there is no matrix and the voxels are in another order.
    """
    letters = fields.get("AnatomicalOrientation", "").upper()
    if not re.fullmatch("[RLAPIS]{3}", letters):
        return []
    matrix = next((_numbers(fields[name]) for name in SYNONYMS[0] if name in fields), None)
    if matrix is None:
        if letters != "RAI":
            raise ScanError(
                "the header gives an anatomical orientation and no matrix, so the directions of the axes are not sure",
                "Store the scan with its TransformMatrix",
                code="bad-space",
            )
        return []
    count = math.isqrt(len(matrix))
    axes = [matrix[k * count : k * count + 3] for k in range(3)]
    largest = [max(range(3), key=lambda i: abs(axis[i])) for axis in axes]
    by_matrix = "".join(("RL", "AP", "IS")[i][axis[i] < 0] for i, axis in zip(largest, axes))
    if by_matrix != letters:
        return ["AnatomicalOrientation and the matrix of the header differ; the matrix was used"]
    return []


def _value(text: str) -> object:
    """What a field holds, for comparisons: numbers, or a word."""
    return _numbers(text) or text.strip().lower()


def _no_sense(name: str) -> ScanError:
    return ScanError(
        f"{name[:40]} of the header is missing or makes no sense", "Export the scan again", code="bad-header"
    )


def _whole_numbers(text: str) -> list[int]:
    parts = text.split()
    return [int(part) for part in parts] if all(re.fullmatch(r"-?\d{1,12}", part) for part in parts) else []


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split()]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


def data_file(fields: Mapping[str, str], form: str) -> str:
    """What a header says of separate data: a name, LIST, or a pattern of names; empty where the voxels follow."""
    if form == "NRRD":
        return fields.get("data file", fields.get("datafile", ""))
    name = fields.get("ElementDataFile", "")
    return "" if name.upper() == "LOCAL" else name


def data_files(path: Path, named: str, form: str) -> list[Path]:
    """The data files of a header, in order; they need not exist.

    Args:
        path: of the header.
        named: `data_file` of it.
        form: `form_of` it.

    Raises:
        ScanError: outside-folder, where one of them lies elsewhere; bad-header, where a pattern has no sense.
    """
    if not named:
        return []
    if named.split()[0].upper() == "LIST":
        names = _listed(path, form)
    elif re.search(r"%\d*d", named.split()[0]):
        names = _numbered(named)
    else:
        names = [named]
    folder = os.path.abspath(path.parent)
    found = [Path(os.path.normpath(os.path.join(folder, name))) for name in names]
    if any("\0" in name or os.path.isabs(name) for name in names) or not all(
        file.is_relative_to(folder) and file != Path(folder) for file in found
    ):
        raise ScanError(
            "the header names a data file outside its own folder",
            "Put the data beside the header, and correct the name in it",
            code="outside-folder",
        )
    return found


def check_data_files(path: Path, named: str, form: str) -> None:
    """Whether the data files of a header lie in its folder, and those that exist are regular files.

    Raises:
        ScanError: outside-folder, bad-header, not-a-file.
    """
    for file in data_files(path, named, form):
        if file.exists():
            check_regular(file)


def _listed(path: Path, form: str) -> list[str]:
    with path.open("rb") as stream:
        text = stream.read(HEADER_BYTES).replace(b"\r", b"").decode("latin-1")
    if form == "NRRD":
        body = re.split(r"^data ?file:\s*LIST.*$", text, maxsplit=1, flags=re.M | re.I)[-1]
    else:
        body = re.split(r"^\s*ElementDataFile\s*=.*$", text, maxsplit=1, flags=re.M)[-1]
    return [line.strip() for line in body.split("\n") if line.strip()][:MAX_FILES]


def _numbered(named: str) -> list[str]:
    pattern, *numbers = named.split()
    try:
        first, last = int(numbers[0]), int(numbers[1])
        step = int(numbers[2]) if len(numbers) > 2 else 1
        places = range(first, last + (1 if step > 0 else -1), step)
        if len(places) > MAX_FILES:
            raise ValueError
        return [pattern % number for number in places]
    except (ValueError, TypeError, IndexError, OverflowError):
        raise ScanError(
            "the header names its data files by a pattern that makes no sense",
            "Correct the header, or export the scan again",
            code="bad-header",
        ) from None
