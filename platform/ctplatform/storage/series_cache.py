"""Folders of public buckets on a local disk, as many as a limit allows, shared by all processes of a node.

    series/<name>/   the files of a folder, complete
    parts/<name>/    the same while they arrive
    sizes/<name>     bytes that the folder takes, from before its first file arrives; its time is that of the last use
    locks/<stripe>   flock: shared by who reads a folder, exclusive for who fetches or deletes it

A lock ends with its process, however that ends: what a killed process left half fetched is deleted when room is needed
or the folder is fetched again. The least recently used folders that nobody reads make room.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ctplatform.storage import retry
from ctplatform.storage.public import MAX_IDLE, Item, PublicBucket, PublicPlace

#: Names the folder of the cache; without it, one below the system's folder for temporary files.
FOLDER_VARIABLE = "DRASCLR_CACHE"
#: Limit of its size in GB.
SIZE_VARIABLE = "DRASCLR_CACHE_GB"
DEFAULT_GB = 20.0
#: Files of a folder that are fetched at a time: on as many connections as are kept for the next folder.
FETCHERS = MAX_IDLE
#: Seconds to wait for other processes to end their use of what fills the cache.
PATIENCE_S = 600.0
_LOOK_EVERY_S = 0.1
_STRIPES = 4096


class CacheTooSmallError(Exception):
    """A folder is larger than the cache may get, in bytes, or all of it stays in use."""

    def __init__(self, needed: int, limit: int) -> None:
        super().__init__(needed, limit)
        self.needed, self.limit = needed, limit


class SeriesCache:
    """Bounded cache of public folders.

    Args:
        root: a folder on a local disk; made when it is first needed.
        limit_bytes: what all files together never exceed.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root, self.limit_bytes = root, limit_bytes

    @classmethod
    def of_this_node(cls) -> SeriesCache:
        """As the environment says."""
        fallback = Path(tempfile.gettempdir()) / f"drasclr-cache-{os.getuid()}"
        limit = float(os.environ.get(SIZE_VARIABLE) or DEFAULT_GB)
        return cls(Path(os.environ.get(FOLDER_VARIABLE) or fallback), int(limit * 1e9))

    @contextlib.contextmanager
    def held(self, place: PublicPlace, *, fetchers: int | None = None) -> Iterator[Path]:
        """The folder as a local one, which stays until the context ends; fetched if it is not there.

        Raises:
            FileNotFoundError: the bucket holds no such folder, or a file of it vanished.
            PermissionError: the bucket does not hand it out.
            CacheTooSmallError: there is no room for it.
            OSError: the store kept failing, or the disk is full.
        """
        # What may change under its name is looked at each time, and kept under a name of its content.
        items = None
        if not place.immutable:
            items = _listed(PublicBucket(place))
        identity = repr((place.store, place.bucket, place.key, place.endpoint, items))
        name = hashlib.sha256(identity.encode()).hexdigest()[:32]
        for part in ("series", "parts", "sizes", "locks"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        folder = self.root / "series" / name
        while True:
            with self._locked(name, fcntl.LOCK_SH):
                if folder.is_dir():
                    with contextlib.suppress(FileNotFoundError):
                        os.utime(self.root / "sizes" / name)
                    yield folder
                    return
            with self._locked(name, fcntl.LOCK_EX):
                if not folder.is_dir():
                    self._fetch(place, name, fetchers or FETCHERS)

    def prefetch(self, place: PublicPlace) -> None:
        """Fetch a folder that is used soon. Raises as `held` does."""
        with self.held(place):
            pass

    def used_bytes(self) -> int:
        """What the cache takes, or is about to."""
        if not (self.root / "locks").is_dir():
            return 0
        # Without the lock, a folder that was just deleted and the one in its place would both count.
        with self._locked_file("room", fcntl.LOCK_SH):
            return sum(size for _, size, _ in self._entries())

    def _fetch(self, place: PublicPlace, name: str, fetchers: int) -> None:
        """Called with the exclusive lock of the folder."""
        part, size_file = self.root / "parts" / name, self.root / "sizes" / name
        bucket = PublicBucket(place)
        items = _listed(bucket)
        self._reserve(name, sum(item.size for item in items))
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            _fetch_all(bucket, items, part, fetchers)
            os.replace(part, self.root / "series" / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            size_file.unlink(missing_ok=True)
            raise

    def _reserve(self, name: str, needed: int) -> None:
        """Claim room for a folder, making it where there is none."""
        if needed > self.limit_bytes:
            raise CacheTooSmallError(needed, self.limit_bytes)
        end = time.monotonic() + PATIENCE_S
        while True:
            with self._locked_file("room", fcntl.LOCK_EX):
                (self.root / "sizes" / name).unlink(missing_ok=True)  # of an attempt that was killed
                if self._make_room(needed, own=_stripe(name)):
                    (self.root / "sizes" / name).write_text(str(needed), encoding="ascii")
                    return
            if time.monotonic() > end:
                raise CacheTooSmallError(needed, self.limit_bytes)
            time.sleep(_LOOK_EVERY_S)

    def _make_room(self, needed: int, *, own: str) -> bool:
        """Delete what nobody reads; the stripe `own` is locked by the caller."""
        entries = sorted(self._entries())
        used = sum(size for _, size, _ in entries)
        for _, size, name in entries:
            if used + needed <= self.limit_bytes:
                break
            free = self._locked(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with (
                contextlib.suppress(BlockingIOError),
                contextlib.nullcontext() if _stripe(name) == own else free,
            ):
                for part in ("series", "parts"):
                    shutil.rmtree(self.root / part / name, ignore_errors=True)
                (self.root / "sizes" / name).unlink(missing_ok=True)
                used -= size
        return used + needed <= self.limit_bytes

    def _entries(self) -> list[tuple[float, int, str]]:
        """(time of last use, bytes, name) of each folder."""
        found = []
        for file in (self.root / "sizes").glob("*"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append((file.stat().st_mtime, int(file.read_text(encoding="ascii")), file.name))
        return found

    def _locked(self, name: str, kind: int) -> contextlib.AbstractContextManager[None]:
        return self._locked_file(_stripe(name), kind)

    @contextlib.contextmanager
    def _locked_file(self, name: str, kind: int) -> Iterator[None]:
        with (self.root / "locks" / name).open("wb") as file:
            fcntl.flock(file, kind)
            yield


def _stripe(name: str) -> str:
    """Its lock file. One a folder would stay behind for ever; two folders of a stripe may wait for each other."""
    return f"{int(name[:8], 16) % _STRIPES:04d}"


def _listed(bucket: PublicBucket) -> list[Item]:
    items = retry.with_retries(bucket.items, what="a public bucket")
    if not items:
        raise FileNotFoundError("HTTP status 404")
    return items


def _fetch_all(bucket: PublicBucket, items: list[Item], folder: Path, fetchers: int) -> None:
    """Many files at a time; the first problem stops those that have not begun."""

    def one(item: Item) -> None:
        target = folder / item.name
        retry.with_retries(lambda: bucket.fetch(item, target), what="an image in a public bucket")

    with ThreadPoolExecutor(min(fetchers, len(items))) as pool:
        tasks = [pool.submit(one, item) for item in items]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
