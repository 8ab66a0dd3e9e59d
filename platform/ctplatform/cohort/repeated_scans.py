"""Scans that occur more than once in a tree, found from headers, sizes and sampled bytes.

Two scans are the same if they have the same scan_id (`split_series` has compared series of one UID), or are two files
of the same size with the same sampled bytes, or (DICOM and file, or files of two formats) have the same grid in space
and then the same voxels, which are read for these pairs only. The DICOM series is kept, because its header identifies
the subject; of two files the first by path. Near duplicates are those of `ctplatform.dataset.duplicates`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.cohort.scan_rules import Findings, FoundScan
from ctplatform.errors import ScanError
from ctplatform.imaging.volume import read_volume


def without_repeated(
    scans: Sequence[FoundScan], root: Path, *, same: Callable[[FoundScan, FoundScan], bool]
) -> Findings:
    """Each scan once, sorted by path, and a line for each duplicate.

    Args:
        same: compares the voxels of two scans for which `may_be_same` holds.
    """
    kept: dict[str, FoundScan] = {}
    by_size: dict[tuple[int, ...], list[FoundScan]] = {}
    passed_over: list[str] = []
    for scan in sorted(scans, key=lambda s: (s.form != "DICOM", s.path, s.series_uid)):
        original = kept.get(scan.scan_id) or next(
            (other for other in by_size.get(scan.size, ()) if may_be_same(scan, other) and same(scan, other)),
            None,
        )
        if original:
            place, other_place = (s.path.relative_to(root).as_posix() for s in (scan, original))
            passed_over.append(f"{place}: the same scan as {other_place}")
            continue
        kept[scan.scan_id] = scan
        by_size.setdefault(scan.size, []).append(scan)
    return Findings(sorted(kept.values(), key=lambda s: (s.path, s.series_uid)), passed_over)


def may_be_same(one: FoundScan, other: FoundScan) -> bool:
    """Whether two scans are files of two formats with the same grid in space."""
    return bool(
        one.form != other.form
        and np.allclose(one.spacing, other.spacing, atol=0.005)
        and np.allclose(one.centre, other.centre, atol=0.5)
    )


def same_voxels(one: FoundScan, other: FoundScan) -> bool:
    """Whether two scans hold the same volume; both are read."""
    try:
        images = [read_volume(s.location, series_uid=s.series_uid or None).image for s in (one, other)]
    except ScanError:
        return False
    first, second = (sitk.GetArrayViewFromImage(image) for image in images)
    return first.shape == second.shape and bool(np.array_equal(first, second))
