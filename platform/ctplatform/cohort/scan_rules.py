"""Rules by which the files of a folder are CT scans.

From headers alone:
- DICOM: in each folder, of each study, the series that `choose_series` picks.
- Volume files: 3-D, scalar, enough slices, and not a label map: no 8-bit voxels, no name such as mask, label or
  segmentation, no content that compresses to less than 2%, as labels do and CT noise never does.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctplatform.cohort.pseudonyms import pseudonym
from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_geometry import SeriesGeometry, series_geometry
from ctplatform.imaging.dicom_headers import Series, index_files
from ctplatform.imaging.dicom_series import choose_series
from ctplatform.imaging.files import NIFTI_SUFFIXES, volume_suffix
from ctplatform.imaging.itk_file import read_itk_header
from ctplatform.imaging.nifti import read_header
from ctplatform.imaging.volume_checks import MIN_SLICES

_LABEL_WORDS = {
    "label", "labels", "labelmap", "labelmaps", "mask", "masks", "lungmask", "seg", "segs", "segmentation",
    "segmentations", "segmented", "roi", "rois", "annotation", "annotations", "lobes", "gt", "aseg", "pred",
    "prediction", "predictions", "contour", "contours",
}  # fmt: skip
_ANONYMOUS_IDS = {"", "ANON", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "UNKNOWN", "NONE", "NA", "0"}
_SAMPLE_BYTES = 1 << 16
_LABEL_RATIO = 0.02
"""Compressed over raw size below which a volume is a label map."""


@dataclass(frozen=True)
class FoundScan:
    """One scan of the tree.

    Attributes:
        path: a volume file, or the folder of a DICOM series.
        series_uid: empty for a volume file.
        form: DICOM, or the suffix of a volume file.
        size, spacing: voxels and mm, in the order of rising size, so that the order of axes does not matter.
        centre: mm, LPS.
    """

    scan_id: str
    subject_id: str
    path: Path
    series_uid: str
    form: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    centre: tuple[float, ...]


@dataclass(frozen=True)
class SearchOptions:
    """Settings of one search, the same in every Ray task.

    Attributes:
        root: absolute; lines of what was passed over give paths below it.
        key: of the pseudonyms.
        every_series: take every axial CT series of a study, not the best one only.
    """

    root: Path
    key: bytes
    every_series: bool


class Findings(NamedTuple):
    """Scans, and one line for each thing that was passed over: "path below the root: reason"."""

    scans: list[FoundScan]
    passed_over: list[str]


def scans_of_folder(options: SearchOptions, folder: Path, names: Sequence[str]) -> Findings:
    """The scans among the files of one folder, subfolders left out."""
    files = [folder / name for name in names]
    return scans_of_headers(options, folder, names, index_files(f for f in files if not volume_suffix(f)))


def scans_of_headers(
    options: SearchOptions, folder: Path, names: Sequence[str], series_found: Sequence[Series]
) -> Findings:
    """The scans among the files of one folder, whose DICOM headers have been read already."""
    scans: list[FoundScan] = []
    passed_over: list[str] = []
    place = folder.relative_to(options.root).as_posix()
    files = [folder / name for name in names]
    volumes = [f for f in files if volume_suffix(f)]
    for file in volumes:
        try:
            scans.append(_volume_file(file))
        except ScanError as error:
            passed_over.append(f"{file.relative_to(options.root).as_posix()}: {error.problem}")
    used = {s.file for series in series_found for s in series.slices}
    others = [
        f.name
        for f in files
        if not volume_suffix(f) and f not in used and not (volumes and f.suffix in (".raw", ".zraw", ".gz"))
    ]
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        passed_over.append(f"{place}: {len(others)} file(s) that are no CT volume ({shown})")
    chosen, rejected = _choose_of_each_study(series_found, every_series=options.every_series)
    passed_over += [
        f"{place}: {series.modality} series of {len(series.slices)} image(s): {reason}"
        for series, reason in rejected
    ]
    scans += [
        _dicom_scan(series, geometry, folder, key=options.key)
        for series, geometry in ((series, series_geometry(series)) for series in chosen)
    ]
    return Findings(scans, passed_over)


def scan_id_of(content: str | bytes) -> str:
    """Identifier of a scan: `ct-` and 10 hex digits of the SHA-256 of `content`."""
    data = content.encode() if isinstance(content, str) else content
    return "ct-" + hashlib.sha256(data).hexdigest()[:10]


def _choose_of_each_study(
    series_found: Sequence[Series], *, every_series: bool
) -> tuple[list[Series], list[tuple[Series, str]]]:
    """The series to use of each study (of each series, with `every_series`), and the others with the reasons."""
    studies: dict[str, list[Series]] = {}
    for series in series_found:
        studies.setdefault(series.uid if every_series else series.study_uid, []).append(series)
    chosen: list[Series] = []
    rejected: list[tuple[Series, str]] = []
    for study in studies.values():
        best, others = choose_series(study)
        rejected += others
        if best:
            chosen.append(best)
    return chosen, rejected


def _dicom_scan(series: Series, geometry: SeriesGeometry, folder: Path, *, key: bytes) -> FoundScan:
    scan_id = scan_id_of(series.uid)
    identified = series.patient_id.split("\n")[-1].upper().strip() not in _ANONYMOUS_IDS
    rows, columns = geometry.slices[0].shape
    size = (columns, rows, len(geometry.slices))
    return FoundScan(
        scan_id=scan_id,
        subject_id=pseudonym(series.patient_id, key=key) if identified else scan_id,
        path=folder,
        series_uid=series.uid,
        form="DICOM",
        **_grid(size, geometry.spacing, geometry.origin, geometry.direction),
    )


def _volume_file(file: Path) -> FoundScan:
    suffix, data_file = volume_suffix(file), ""
    words = set(re.split(r"[^a-z]+", file.name.lower().removesuffix(suffix)))
    if words & _LABEL_WORDS:
        raise _label_map(f"its name contains {sorted(words & _LABEL_WORDS)[0]!r}")
    if suffix in NIFTI_SUFFIXES:
        header = read_header(file)
        eight_bit = header.dtype.itemsize == 1 and header.slope == 1.0
        grid = _grid(header.size, header.spacing, header.origin, header.direction)
        voxel_bytes = header.dtype.itemsize
    else:
        itk = read_itk_header(file)
        eight_bit = itk.voxel_bytes == 1 and itk.slope == 1.0
        grid = _grid(itk.size, itk.spacing, itk.origin, itk.direction)
        voxel_bytes, data_file = itk.voxel_bytes, itk.data_file
    if eight_bit:
        raise _label_map("8-bit voxels")
    if grid["size"][0] < MIN_SLICES:
        raise ScanError(f"{grid['size'][0]} slices only", "Give the complete scan", code="too-few-slices")
    sample, stored = _sample(file, data_file)
    compressed = len(zlib.compress(sample, 1)) / max(1, len(sample)) * stored
    several = (
        data_file and not (file.parent / data_file).is_file()
    )  # a list or a pattern: headers alone say nothing
    if not several and compressed < _LABEL_RATIO * float(np.prod(grid["size"])) * voxel_bytes:
        raise _label_map("its content compresses as only labels do")
    scan_id = scan_id_of(sample + str(stored).encode())
    return FoundScan(scan_id=scan_id, subject_id=scan_id, path=file, series_uid="", form=suffix, **grid)


def _label_map(why: str) -> ScanError:
    return ScanError(
        f"a label map or mask ({why})", "Name it in the cohort table if it is a scan", code="label-map"
    )


def _sample(file: Path, data_file: str) -> tuple[bytes, int]:
    """Bytes from the start, middle and end of a file (and of the data file that a header names), and its size."""
    files = [file]
    if data_file and (file.parent / data_file).is_file():
        files.append(file.parent / data_file)
    parts, total = [], 0
    for part in files:
        size = part.stat().st_size
        with part.open("rb") as stream:
            for offset in sorted({0, max(0, size // 2 - _SAMPLE_BYTES // 2), max(0, size - _SAMPLE_BYTES)}):
                stream.seek(offset)
                parts.append(stream.read(_SAMPLE_BYTES))
        total += size
    return b"".join(parts), total


def _grid(
    size: Sequence[int],
    spacing: Sequence[float],
    origin: Sequence[float],
    direction: Sequence[float] | NDArray[np.float64],
) -> dict[str, Any]:
    """Size and spacing in the order of rising size, and the centre, as fields of `FoundScan`."""
    middle = np.array(direction).reshape(3, 3) @ (np.array(spacing) * (np.array(size) - 1) / 2) + np.array(
        origin
    )
    order = np.lexsort((spacing, size))
    return {
        "size": tuple(int(size[i]) for i in order),
        "spacing": tuple(float(spacing[i]) for i in order),
        "centre": tuple(middle.tolist()),
    }
