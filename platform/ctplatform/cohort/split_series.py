"""Series whose SeriesInstanceUID occurs in several folders: one series in parts, copies, or different ones.

SeriesInstanceUID alone does not decide: exports spread a series over folders, and careless anonymisation gives several
people one UID. What decides is the person, the study, SOPInstanceUIDs with positions, and pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctplatform.cohort.pseudonyms import is_placeholder
from ctplatform.cohort.scan_rules import (
    Findings,
    FolderSeries,
    FoundScan,
    SearchOptions,
    index_names,
    other_files,
    scans_of_series,
)
from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_geometry import series_geometry
from ctplatform.imaging.dicom_headers import Series, Slice, merge, plain_id

_CONTENT_BYTES = 1 << 16
_BROKEN = {"missing-slice", "uneven-spacing", "shifted-slices"}
"""Codes that say that parts belong together and do not make a volume; by the others they are volumes of their own."""


def connected_folders(findings: Iterable[Findings]) -> list[list[Path]]:
    """Folders that share a SeriesInstanceUID with each other, directly or over others; sorted."""
    folders_of_uid: dict[str, list[Path]] = {}
    for found in findings:
        for uid in found.series_uids:
            assert found.folder is not None
            folders_of_uid.setdefault(uid, []).append(found.folder)
    group_of: dict[Path, set[Path]] = {}
    for folders in folders_of_uid.values():
        if len(folders) > 1:
            joined = set(folders).union(*(group_of.get(folder, set()) for folder in folders))
            group_of.update(dict.fromkeys(joined, joined))
    groups = {min(group): group for group in group_of.values()}
    return [sorted(group) for _, group in sorted(groups.items())]


def scans_of_folders(options: SearchOptions, folders: Sequence[Path]) -> Findings:
    """The scans of folders that share SeriesInstanceUIDs."""
    scans: list[FoundScan] = []
    passed_over: list[str] = []
    pieces: dict[str, list[tuple[Path, Series]]] = {}
    for folder in folders:
        names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        series_found = index_names(folder, names)
        for series in series_found:
            pieces.setdefault(series.uid, []).append((folder, series))
        files = other_files(options, folder, names, {s.file for f in series_found for s in f.slices})
        scans += files.scans
        passed_over += files.passed_over
    of_folder: dict[Path, list[FolderSeries]] = {folder: [] for folder in folders}
    for found in pieces.values():
        whole, lines = _decide(options, found)
        passed_over += lines
        for folder, item in whole:
            of_folder[folder].append(item)
    for folder, items in of_folder.items():
        chosen = scans_of_series(options, folder, items)
        scans += chosen.scans
        passed_over += chosen.passed_over
    return Findings(scans, passed_over)


def _decide(
    options: SearchOptions, found: Sequence[tuple[Path, Series]]
) -> tuple[list[tuple[Path, FolderSeries]], list[str]]:
    """The series of one UID as they are taken, each with its first folder, and lines on what is not."""
    kept, lines = _without_copies(options, found)
    people: dict[str, set[str]] = {}
    for _, series in kept:
        people.setdefault(series.study_uid, set()).add(plain_id(series.patient_id))
    groups: dict[tuple[str, str], list[tuple[Path, Series]]] = {}
    for folder, series in kept:
        # Parts without a PatientID are of the study's one person.
        named = people[series.study_uid] - {""}
        person = next(iter(named)) if len(named) == 1 else plain_id(series.patient_id)
        groups.setdefault((person, series.study_uid), []).append((folder, series))
    result: list[tuple[Path, FolderSeries]] = []
    for group in groups.values():
        folders = [folder for folder, _ in group]
        together = merge([series] for _, series in group)[0]
        try:
            series_geometry(together)
            if _agree([series for _, series in group]):
                result.append((folders[0], FolderSeries(together, tuple(folders[1:]))))
                continue
        except ScanError as error:
            numbers = [{s.acquisition for s in series.slices} for _, series in group]
            one_acquisition = len(set().union(*numbers)) < sum(len(n) for n in numbers)
            if len(group) > 1 and error.code in _BROKEN and one_acquisition:
                places = " and ".join(_place(options, folder) for folder in folders)
                lines.append(f"{places}: parts of one series that make no volume together: {error.problem}")
                continue
        result += [(folder, FolderSeries(series)) for folder, series in group]
    if len(result) > 1:
        result = [(folder, item._replace(content=_content(item.series))) for folder, item in result]
    return result, lines


def _without_copies(
    options: SearchOptions, found: Sequence[tuple[Path, Series]]
) -> tuple[list[tuple[Path, Series]], list[str]]:
    """Without series all of whose images are in another one."""
    kept: list[tuple[Path, Series]] = []
    lines: list[str] = []
    for folder, series in sorted(found, key=lambda item: (-len(item[1].slices), item[0])):
        for other_folder, other in kept:
            if _is_copy(series, other):
                lines.append(f"{_place(options, folder)}: the same scan as {_place(options, other_folder)}")
                break
        else:
            kept.append((folder, series))
    return sorted(kept, key=lambda item: item[0]), lines


def _is_copy(series: Series, other: Series) -> bool:
    """Whether another series holds all of a series' images: by SOPInstanceUIDs of one person, or by pixels.

    A person is known by a PatientID that is no placeholder; exports may give copies SOPInstanceUIDs of their own.
    """
    places = {(s.position, s.acquisition): s for s in other.slices}
    if not all((s.position, s.acquisition) in places for s in series.slices):
        return False
    person = plain_id(series.patient_id)
    same_person = person == plain_id(other.patient_id) and series.study_uid == other.study_uid
    held = {(s.sop_uid, s.position, s.acquisition) for s in other.slices}
    if all((s.sop_uid, s.position, s.acquisition) in held for s in series.slices) and (
        same_person and not is_placeholder(person)
    ):
        return True
    image = _middle(series)
    return _pixels(image) == _pixels(places[image.position, image.acquisition])


def _agree(parts: Sequence[Series]) -> bool:
    """Whether parts that hold the same images, by their headers, hold the same pixels, too."""
    seen: dict[tuple[str, tuple[float, ...], str], Slice] = {}
    for series in parts:
        images = {(s.sop_uid, s.position, s.acquisition): s for s in series.slices}
        shared = sorted(images.keys() & seen.keys())
        if shared and _pixels(images[shared[0]]) != _pixels(seen[shared[0]]):
            return False
        seen |= images
    return True


def _content(series: Series) -> str:
    """Hash of pixels of the middle one of a series' images."""
    return _pixels(_middle(series))


def _middle(series: Series) -> Slice:
    """The middle one of a series' images in order of position."""
    images = sorted(series.slices, key=lambda s: (s.position[::-1], s.sop_uid))
    return images[len(images) // 2]


def _pixels(image: Slice) -> str:
    """Hash of the last bytes of an image's file, which are pixels."""
    with image.file.open("rb") as stream:
        size = stream.seek(0, 2)
        pixels = (
            image.pixel_bytes if image.pixel_bytes > 0 else size // 2
        )  # compressed ones fill most of a file
        stream.seek(max(0, size - min(pixels, _CONTENT_BYTES)))
        return hashlib.sha256(stream.read()).hexdigest()


def _place(options: SearchOptions, folder: Path) -> str:
    return folder.relative_to(options.root).as_posix()
