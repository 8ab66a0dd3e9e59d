"""Search of a tree of folders for scans: in this process, or as Ray tasks where the tree is large.

Reading a header lasts about a millisecond; three million of them in one process would take most of an hour. The rules
are those of `scan_rules`, and the result is the same either way.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ctplatform.cohort.repeated_scans import same_voxels, without_repeated
from ctplatform.cohort.scan_rules import (
    Findings,
    FoundScan,
    SearchOptions,
    index_names,
    scans_of_folder,
    scans_of_headers,
)
from ctplatform.cohort.split_series import connected_folders, scans_of_folders
from ctplatform.cohort.study_folders import scan_of_study, studies_in_folders
from ctplatform.compute.fan_out import fan_out
from ctplatform.config.cluster import RayConfig
from ctplatform.imaging.dicom_headers import Series, merge

SMALL = 5000
"""Files of a tree up to which a search without Ray is faster."""

CHUNK = 1000
"""Files a task, about a second's work."""

Folder = tuple[Path, list[str]]


def search_tree(
    root: Path, *, key: bytes, every_series: bool, ray_config: RayConfig | None = None, small: int = SMALL
) -> Findings:
    """Scans below a folder, sorted by path, each once.

    Args:
        root: absolute.
        key: of the pseudonyms.
        every_series: take every axial CT series, not the best one of each study and folder only.
        ray_config: how to connect to Ray or start it; None: search in this process.
        small: files of a tree up to which this process searches in any case.
    """
    options = SearchOptions(root, key, every_series)
    refused: list[OSError] = []
    folders = walk_folders(root, on_error=refused.append)
    first: list[Folder] = []
    count = 0
    for folder in folders:
        first.append(folder)
        count += len(folder[1])
        if ray_config is not None and count > small:
            from ctplatform.compute.session import ray_session

            with ray_session(ray_config):
                found = _search_with_ray(options, itertools.chain(first, folders))
                return Findings(found.scans, found.passed_over + refused_lines(refused, root))
    found = _collected(options, ([scans_of_folder(options, *folder)] for folder in first))
    return Findings(found.scans, found.passed_over + refused_lines(refused, root))


def refused_lines(errors: Iterable[OSError], root: Path) -> list[str]:
    """A line for each folder that may not be read."""
    return [
        f"{os.path.relpath(error.filename, root)}: the folder cannot be read ({error.strerror})"
        for error in errors
    ]


def walk_folders(
    root: Path, *, on_error: Callable[[OSError], object] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names of their files, in a fixed order.

    Hidden ones are left out; links are followed, but no folder is visited twice.

    Args:
        root: where to begin.
        on_error: called for a folder that cannot be read, which is then left out.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=on_error, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        yield Path(folder), [n for n in sorted(names) if not n.startswith(".")]


def _search_with_ray(options: SearchOptions, folders: Iterable[Folder]) -> Findings:
    """Tasks of about `CHUNK` files: small folders together, a large one split. The driver holds one row a scan."""
    import ray

    task = ray.remote(num_cpus=1)(_scans_of_batch)
    in_flight = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def submit(batch: list[Folder]) -> Any:
        large = len(batch) == 1 and len(batch[0][1]) > CHUNK
        return _submit_large(options, *batch[0]) if large else task.remote(options, batch)

    found = fan_out(submit, _batches(folders), in_flight=in_flight)
    compare = ray.remote(num_cpus=1)(same_voxels)
    join = ray.remote(num_cpus=1)(scans_of_folders)
    choose = ray.remote(num_cpus=1)(scan_of_study)
    return _collected(
        options,
        found,
        same=lambda one, other: ray.get(compare.remote(one, other)),
        join=lambda options, folders: ray.get(join.remote(options, folders)),
        choose=lambda options, groups: ray.get([choose.remote(options, group) for group in groups]),
    )


def _collected(
    options: SearchOptions,
    found: Iterable[list[Findings]],
    *,
    same: Callable[[FoundScan, FoundScan], bool] = same_voxels,
    join: Callable[[SearchOptions, Sequence[Path]], Findings] = scans_of_folders,
    choose: Callable[[SearchOptions, Sequence[Sequence[FoundScan]]], list[Findings]] | None = None,
) -> Findings:
    """Findings of all folders as one, each scan once.

    Folders that share a SeriesInstanceUID are searched together; of a study with a folder a series, one is taken.
    """
    scans: list[FoundScan] = []
    passed_over: list[str] = []
    parts = [part for batch in found for part in batch]
    for folders in connected_folders(parts):
        parts = [part for part in parts if part.folder not in folders] + [join(options, folders)]
    for part in parts:
        scans += part.scans
        passed_over += part.passed_over
    if not options.every_series:
        groups = studies_in_folders(scans)
        chosen = choose(options, groups) if choose else [scan_of_study(options, group) for group in groups]
        for group, found_scan in zip(groups, chosen, strict=True):
            scans = [scan for scan in scans if scan not in group] + found_scan.scans
            passed_over += found_scan.passed_over
    unique = without_repeated(scans, options.root, same=same)
    return Findings(unique.scans, passed_over + unique.passed_over)


def _batches(folders: Iterable[Folder]) -> Iterator[list[Folder]]:
    """Consecutive folders with up to `CHUNK` files together; a larger folder alone."""
    batch: list[Folder] = []
    size = 0
    for folder in folders:
        if batch and size + len(folder[1]) > CHUNK:
            yield batch
            batch, size = [], 0
        batch.append(folder)
        size += len(folder[1])
    if batch:
        yield batch


def _submit_large(options: SearchOptions, folder: Path, names: list[str]) -> Any:
    """Tasks for one large folder: headers in chunks, and one task that merges them. Returns its reference."""
    import ray

    headers = ray.remote(num_cpus=1)(index_names)
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    parts = [headers.remote(folder, chunk) for chunk in chunks]
    return ray.remote(num_cpus=1)(_scans_of_parts).remote(options, folder, names, *parts)


def _scans_of_batch(options: SearchOptions, batch: Sequence[Folder]) -> list[Findings]:
    return [scans_of_folder(options, *folder) for folder in batch]


def _scans_of_parts(
    options: SearchOptions, folder: Path, names: Sequence[str], *parts: list[Series]
) -> list[Findings]:
    return [scans_of_headers(options, folder, names, merge(parts))]
