"""Studies whose series lie in a folder each, as most exports leave them: one scan a study, as in a single folder.

Two kernels of one acquisition would be two scans otherwise, and count twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctplatform.cohort.scan_rules import Findings, FoundScan, SearchOptions
from ctplatform.imaging.dicom_choice import choose_series
from ctplatform.imaging.dicom_headers import Series, index_folder, merge
from ctplatform.imaging.files import is_archive


def studies_in_folders(scans: Sequence[FoundScan]) -> list[list[FoundScan]]:
    """Scans of one study and person, each a series of its own in folders of its own; sorted by path.

    Scans that share a SeriesInstanceUID are acquisitions that `split_series` keeps apart: they are none of these.
    """
    studies: dict[str, list[FoundScan]] = {}
    for scan in sorted(scans, key=lambda s: (s.path, s.series_uid)):
        if scan.study and not is_archive(scan.path):
            studies.setdefault(scan.study, []).append(scan)
    return [
        group
        for group in studies.values()
        if len(group) == len({scan.series_uid for scan in group}) and len({scan.path for scan in group}) > 1
    ]


def scan_of_study(options: SearchOptions, group: Sequence[FoundScan]) -> Findings:
    """The scan of a study in several folders that `choose_series` picks, and a line for each other one."""
    of_uid = {scan.series_uid: scan for scan in group}
    series = [_headers(scan) for scan in group]
    best, rejected = choose_series(series)
    if best is None:  # not so when each was found: the files have changed since
        return Findings(list(group), [])
    lines = [
        f"{_place(options, of_uid[other.uid].path)}: {other.modality} series of {len(other.slices)} image(s): {reason} "
        f"({_place(options, of_uid[best.uid].path)})"
        for other, reason in rejected
    ]
    return Findings([of_uid[best.uid]], lines)


def _headers(scan: FoundScan) -> Series:
    parts = [
        [series for series in index_folder(folder) if series.uid == scan.series_uid]
        for folder in (scan.path, *scan.further_folders)
    ]
    return merge(parts)[0]


def _place(options: SearchOptions, folder: Path) -> str:
    return folder.relative_to(options.root).as_posix()
