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

from ctplatform.cohort.pseudonyms import is_placeholder, pseudonym
from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_choice import choose_series
from ctplatform.imaging.dicom_geometry import series_geometry
from ctplatform.imaging.dicom_headers import Series, index_files
from ctplatform.imaging.files import (
    DICOMDIR,
    FOLDER_SEPARATOR,
    NIFTI_SUFFIXES,
    is_archive,
    unpacked,
    volume_suffix,
)
from ctplatform.imaging.itk_file import read_itk_header
from ctplatform.imaging.nifti import read_header
from ctplatform.imaging.volume_checks import MIN_SLICES

_LABEL_WORDS = {
    "label", "labels", "labelmap", "labelmaps", "mask", "masks", "lungmask", "seg", "segs", "segmentation",
    "segmentations", "segmented", "roi", "rois", "annotation", "annotations", "lobes", "gt", "aseg", "pred",
    "prediction", "predictions", "contour", "contours",
}  # fmt: skip
_SAMPLE_BYTES = 1 << 16
_LABEL_RATIO = 0.02
"""Compressed over raw size below which a volume is a label map."""


@dataclass(frozen=True)
class FoundScan:
    """One scan of the tree.

    Attributes:
        path: a volume file, the folder of a DICOM series (the first, where it lies in several), or a zipped study.
        series_uid: empty for a volume file.
        form: DICOM, or the suffix of a volume file.
        size, spacing: voxels and mm, in the order of rising size, so that the order of axes does not matter.
        centre: mm, LPS.
        further_folders: where a DICOM series lies in several folders, the others.
        placeholder: whether PatientID is missing or names no person, so that the subject is the folder.
        study: hash of a DICOM scan's StudyInstanceUID and subject; else empty.
    """

    scan_id: str
    subject_id: str
    path: Path
    series_uid: str
    form: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    centre: tuple[float, ...]
    further_folders: tuple[Path, ...] = ()
    placeholder: bool = False
    study: str = ""

    @property
    def location(self) -> str:
        """The value of the table's column `path`."""
        return FOLDER_SEPARATOR.join(str(folder) for folder in (self.path, *self.further_folders))


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
    """What was found in one folder, or in several.

    Attributes:
        scans: one a scan.
        passed_over: one line for each thing that is no scan: "path below the root: reason".
        folder: whose findings they are; None for those of several.
        series_uids: of the DICOM CT series in the folder, whether they are scans or not.
    """

    scans: list[FoundScan]
    passed_over: list[str]
    folder: Path | None = None
    series_uids: tuple[str, ...] = ()


class FolderSeries(NamedTuple):
    """A series as it is taken from a folder.

    Attributes:
        further_folders: where other images of it lie.
        content: hash of a part of its pixels where other series have the same UID; else empty.
    """

    series: Series
    further_folders: tuple[Path, ...] = ()
    content: str = ""


def scans_of_folder(options: SearchOptions, folder: Path, names: Sequence[str]) -> Findings:
    """The scans among the files of one folder, subfolders left out."""
    return scans_of_headers(options, folder, names, index_names(folder, names))


def index_names(folder: Path, names: Sequence[str]) -> list[Series]:
    """The series among the files of a folder."""
    files = (folder / name for name in names)
    return index_files(file for file in files if not volume_suffix(file) and not is_archive(file))


def scans_of_headers(
    options: SearchOptions, folder: Path, names: Sequence[str], series_found: Sequence[Series]
) -> Findings:
    """The scans among the files of one folder, whose DICOM headers have been read already."""
    found = scans_of_series(options, folder, [FolderSeries(series) for series in series_found])
    files = other_files(options, folder, names, {s.file for series in series_found for s in series.slices})
    uids = tuple(series.uid for series in series_found if series.modality == "CT")
    return Findings(files.scans + found.scans, files.passed_over + found.passed_over, folder, uids)


def other_files(options: SearchOptions, folder: Path, names: Sequence[str], used: set[Path]) -> Findings:
    """The scans of a folder in volume files and zipped studies, and a line for all that is none; `used` left out."""
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
    archives = [f for f in files if is_archive(f)]
    for file in archives:
        found = _archive(options, file)
        scans += found.scans
        passed_over += found.passed_over
    taken = {*volumes, *archives, *used}
    others = [
        f.name
        for f in files
        if f not in taken
        and f.name.upper() != DICOMDIR
        and not (volumes and f.suffix in (".raw", ".zraw", ".gz"))
    ]
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        passed_over.append(f"{place}: {len(others)} file(s) that are no CT volume ({shown})")
    return Findings(scans, passed_over)


def scans_of_series(options: SearchOptions, path: Path, found: Sequence[FolderSeries]) -> Findings:
    """Of each study in a folder (or zipped study) the series to take; with `every_series`, all that can be used."""
    place = path.relative_to(options.root).as_posix()
    studies: dict[str, list[Series]] = {}
    for item in found:
        series = item.series
        studies.setdefault(series.uid if options.every_series else series.study_uid, []).append(series)
    of_uid = {item.series.uid: item for item in found}
    scans: list[FoundScan] = []
    passed_over: list[str] = []
    for study in studies.values():
        best, rejected = choose_series(study)
        passed_over += [
            f"{place}: {series.modality} series of {len(series.slices)} image(s): {reason}"
            for series, reason in rejected
        ]
        if best:
            scans.append(_dicom_scan(options, path, of_uid[best.uid]))
    return Findings(scans, passed_over)


def _archive(options: SearchOptions, file: Path) -> Findings:
    """The scans of a zipped study."""
    place = file.relative_to(options.root).as_posix()
    try:
        with unpacked(file) as inside:
            series_found = index_files(f for f in inside if not volume_suffix(f))
            if not series_found:
                return Findings([], [f"{place}: no DICOM images in the archive"])
            return scans_of_series(options, file, [FolderSeries(series) for series in series_found])
    except ScanError as error:
        return Findings([], [f"{place}: {error.problem}"])


def scan_id_of(content: str | bytes) -> str:
    """Identifier of a scan: `ct-` and 10 hex digits of the SHA-256 of `content`."""
    data = content.encode() if isinstance(content, str) else content
    return "ct-" + hashlib.sha256(data).hexdigest()[:10]


def _dicom_scan(options: SearchOptions, path: Path, item: FolderSeries) -> FoundScan:
    series, geometry = item.series, series_geometry(item.series)
    placeholder = is_placeholder(series.patient_id)
    rows, columns = geometry.slices[0].shape
    size = (columns, rows, len(geometry.slices))
    subject = pseudonym(
        _folder_subject(options, path, series) if placeholder else series.patient_id, key=options.key
    )
    return FoundScan(
        scan_id=scan_id_of(f"{series.uid}\n{item.content}" if item.content else series.uid),
        subject_id=subject,
        study=hashlib.sha256(f"{subject}\n{series.study_uid}".encode()).hexdigest()
        if series.study_uid
        else "",
        path=path,
        series_uid=series.uid,
        form="DICOM",
        further_folders=item.further_folders,
        placeholder=placeholder,
        **_grid(size, geometry.spacing, geometry.origin, geometry.direction),
    )


def _folder_subject(options: SearchOptions, path: Path, series: Series) -> str:
    """What stands for a PatientID that names no person: the folder; directly in the searched folder, the study."""
    place = path.relative_to(options.root).as_posix()
    return f"study {series.study_uid}" if place == "." else f"folder {place}"


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
