"""Searching a tree of folders: here, or as Ray tasks where it is large.

A header takes about a millisecond; three million of them in one process would take most of an hour. The rules are
those of ctplatform/catalogue.py, and the answer is the same either way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ctplatform.cohort.catalogue import Found, Look, judge, look_into, same_voxels, walk, without_repeats
from ctplatform.compute.fan_out import fan_out
from ctplatform.config.cluster import RayConfig
from ctplatform.imaging.dicom_headers import Series, index_files, join
from ctplatform.imaging.files import volume_suffix

#: Files in a tree up to which starting Ray would only cost time.
SMALL = 5000
#: Files a task, about a second's work.
CHUNK = 1000

Folder = tuple[Path, list[str]]
Answer = tuple[list[Found], list[str]]


def search(
    root: Path, *, key: bytes, every_series: bool, ray_config: RayConfig | None = None, small: int = SMALL
) -> Answer:
    """Scans below a folder, sorted by path, and a line for everything that was passed over.

    Args:
        root: absolute.
        key: of the pseudonyms.
        every_series: not the best one of each study and folder only.
        ray_config: how to reach or start Ray; None: everything happens in this process.
        small: files up to which it does anyway.
    """
    look = Look(root, key, every_series)
    folders = walk(root)
    first: list[Folder] = []
    count = 0
    for folder in folders:
        first.append(folder)
        count += len(folder[1])
        if ray_config is not None and count > small:
            from ctplatform.compute.session import ray_session

            with ray_session(ray_config):
                return _side_by_side(look, itertools.chain(first, folders))
    return _settled(look, (look_into(look, *folder) for folder in first))


def _side_by_side(look: Look, folders: Iterable[Folder]) -> Answer:
    """Small folders go to tasks by the handful, a large one is split; the driver holds a row a scan."""
    import ray

    task = ray.remote(num_cpus=1)(_look_into_all)
    in_flight = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def submit(batch: list[Folder]) -> Any:
        large = len(batch) == 1 and len(batch[0][1]) > CHUNK
        return _large(look, *batch[0]) if large else task.remote(look, batch)

    answers = fan_out(submit, _batches(folders), in_flight=in_flight)
    compare = ray.remote(num_cpus=1)(same_voxels)
    return _settled(look, answers, same=lambda one, other: ray.get(compare.remote(one, other)))


def _settled(look: Look, answers: Iterable[Answer], *, same: Any = same_voxels) -> Answer:
    scans: list[Found] = []
    passed: list[str] = []
    for found, lines in answers:
        scans += found
        passed += lines
    return without_repeats(scans, look.root, passed, same=same), passed


def _batches(folders: Iterable[Folder]) -> Iterator[list[Folder]]:
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


def _large(look: Look, folder: Path, names: list[str]) -> Any:
    """Headers by the thousand, put together in one more task."""
    import ray

    headers = ray.remote(num_cpus=1)(_index)
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    parts = [headers.remote(folder, chunk) for chunk in chunks]
    return ray.remote(num_cpus=1)(_judge_joined).remote(look, folder, names, *parts)


def _look_into_all(look: Look, batch: Sequence[Folder]) -> Answer:
    answers = [look_into(look, *folder) for folder in batch]
    return [s for scans, _ in answers for s in scans], [line for _, lines in answers for line in lines]


def _index(folder: Path, names: Sequence[str]) -> list[Series]:
    files = (folder / name for name in names)
    return index_files(file for file in files if not volume_suffix(file))


def _judge_joined(look: Look, folder: Path, names: Sequence[str], *parts: list[Series]) -> Answer:
    return judge(look, folder, names, join(parts))
