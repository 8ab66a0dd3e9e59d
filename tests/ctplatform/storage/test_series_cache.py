"""The cache of public series: bounded, shared by processes, whole or absent."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ctplatform.storage import retry, series_cache
from ctplatform.storage.public import PublicPlace, public_place
from ctplatform.storage.series_cache import CacheTooSmallError, SeriesCache
from tests.ctplatform.objectstore import ObjectStore, Stored

FILES, FILE_BYTES = 8, 1000
SERIES_BYTES = FILES * FILE_BYTES


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    server = ObjectStore()
    for number in range(6):
        for file in range(FILES):
            server.objects[f"{number}/{file}.dcm"] = Stored(bytes([number]) * FILE_BYTES)
    yield server
    server.close()


def place(store: ObjectStore, key: object) -> PublicPlace:
    found = public_place(store.public_uri(str(key)))
    assert found is not None
    return found


def gets(store: ObjectStore) -> int:
    return sum(request.endswith(".dcm") for request in store.requests)


def on_disk(root: Path) -> int:
    """Bytes of all files; other processes may delete folders meanwhile."""
    found = 0
    for part in ("series", "parts"):
        for folder, _, names in os.walk(root / part):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found += (Path(folder) / name).stat().st_size
    return found


def test_a_series_is_fetched_once(store: ObjectStore, tmp_path: Path) -> None:
    cache = SeriesCache(tmp_path, 10 * SERIES_BYTES)
    for _ in range(2):
        with cache.held(place(store, 1)) as folder:
            assert sorted(f.name for f in folder.iterdir()) == [f"{n}.dcm" for n in range(FILES)]
            assert all(f.read_bytes() == b"\1" * FILE_BYTES for f in folder.iterdir())
    assert gets(store) == FILES
    assert cache.used_bytes() == on_disk(tmp_path) == SERIES_BYTES


def test_what_changed_under_its_name_is_fetched_again(store: ObjectStore, tmp_path: Path) -> None:
    cache = SeriesCache(tmp_path, 10 * SERIES_BYTES)
    cache.prefetch(place(store, 1))
    store.objects["1/0.dcm"] = Stored(b"new")
    with cache.held(place(store, 1)) as folder:
        assert (folder / "0.dcm").read_bytes() == b"new"


def test_an_immutable_series_is_not_even_listed_again(tmp_path: Path) -> None:
    server = ObjectStore(bucket="idc-open-data")
    try:
        key = "7271ab1d-bb03-4ca9-9457-dabcafd4d33f"
        server.objects[f"{key}/a.dcm"] = Stored(b"a")
        cache = SeriesCache(tmp_path, 100)
        cache.prefetch(place(server, key))
        count = len(server.requests)
        assert count == 2, "a listing and an object"
        cache.prefetch(place(server, key))
        assert len(server.requests) == count
    finally:
        server.close()


def test_the_least_recently_used_makes_room(store: ObjectStore, tmp_path: Path) -> None:
    cache = SeriesCache(tmp_path, 3 * SERIES_BYTES + 1)
    for key in (0, 1, 2, 0, 3):  # 1 is the oldest when 3 comes
        cache.prefetch(place(store, key))
        time.sleep(0.02)
        assert on_disk(tmp_path) <= cache.limit_bytes
    before = gets(store)
    for key in (0, 2, 3):
        cache.prefetch(place(store, key))
    assert gets(store) == before
    cache.prefetch(place(store, 1))
    assert gets(store) == before + FILES


def test_what_is_in_use_stays(store: ObjectStore, tmp_path: Path) -> None:
    cache = SeriesCache(tmp_path, 2 * SERIES_BYTES)
    with cache.held(place(store, 0)) as folder:
        for key in (1, 2, 3):
            cache.prefetch(place(store, key))
        assert len(list(folder.iterdir())) == FILES
    before = gets(store)
    cache.prefetch(place(store, 0))
    assert gets(store) == before


def test_room_is_waited_for(store: ObjectStore, tmp_path: Path) -> None:
    cache = SeriesCache(tmp_path, SERIES_BYTES)
    with cache.held(place(store, 0)):
        other = threading.Thread(target=cache.prefetch, args=(place(store, 1),))
        other.start()
        other.join(0.5)
        assert other.is_alive()
        assert on_disk(tmp_path) == SERIES_BYTES
    other.join(20)
    assert not other.is_alive()
    assert on_disk(tmp_path) == SERIES_BYTES


def test_no_room_at_all(store: ObjectStore, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(CacheTooSmallError) as error:
        SeriesCache(tmp_path, SERIES_BYTES - 1).prefetch(place(store, 0))
    assert (error.value.needed, error.value.limit) == (SERIES_BYTES, SERIES_BYTES - 1)
    assert gets(store) == 0
    monkeypatch.setattr(series_cache, "PATIENCE_S", 0.3)
    cache = SeriesCache(tmp_path, SERIES_BYTES)
    with cache.held(place(store, 0)), pytest.raises(CacheTooSmallError):
        cache.prefetch(place(store, 1))


def test_a_failed_fetch_leaves_nothing(store: ObjectStore, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    cache = SeriesCache(tmp_path, 10 * SERIES_BYTES)
    store.fail("GET", "0/5.dcm", times=1, status=404)
    with pytest.raises(FileNotFoundError):
        cache.prefetch(place(store, 0))
    assert cache.used_bytes() == on_disk(tmp_path) == 0
    store.fail("GET", "0/5.dcm", times=3, status=503)
    cache.prefetch(place(store, 0))
    assert on_disk(tmp_path) == SERIES_BYTES


def test_no_such_series(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SeriesCache(tmp_path, SERIES_BYTES).prefetch(place(store, "none"))


def _work(root: str, uris: list[str], limit: int, pipe: Connection) -> None:
    """One worker: reads series in its own order and checks what it sees while it holds them."""
    cache, wrong, most = SeriesCache(Path(root), limit), 0, 0
    for uri in uris:
        found = public_place(uri)
        assert found is not None
        with cache.held(found) as folder:
            files = sorted(folder.iterdir())
            wrong += len(files) != FILES
            wrong += any(f.read_bytes() != bytes([int(found.key)]) * FILE_BYTES for f in files)
            most = max(most, cache.used_bytes())
            # Between two looks at files, one series may go and another come: nothing goes while this lock is held.
            with (Path(root) / "locks" / "room").open("wb") as room:
                fcntl.flock(room, fcntl.LOCK_SH)
                most = max(most, on_disk(Path(root)))
    pipe.send((wrong, most))


def test_processes_share_it_within_its_limit(store: ObjectStore, tmp_path: Path) -> None:
    limit = 4 * SERIES_BYTES
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for worker in range(3):
        ours, theirs = context.Pipe()
        order = [store.public_uri(str((worker + 2 * n) % 6)) for n in range(12)]
        workers.append(context.Process(target=_work, args=(str(tmp_path), order, limit, theirs)))
        pipes.append(ours)
    for process in workers:
        process.start()
    for pipe in pipes:
        assert pipe.poll(120)
        wrong, most = pipe.recv()
        assert wrong == 0
        assert 0 < most <= limit
    for process in workers:
        process.join(20)
    assert gets(store) < 3 * 12 * FILES, "some were found in the cache"


def _hold(root: str, uri: str, pipe: Connection) -> None:
    found = public_place(uri)
    assert found is not None
    pipe.send("on")
    SeriesCache(Path(root), SERIES_BYTES).prefetch(found)


def test_a_killed_worker_leaves_no_lock_and_no_bytes(store: ObjectStore, tmp_path: Path) -> None:
    store.fail("GET", "0/7.dcm", times=1, status=0, seconds=30)  # it is killed while it waits for this
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_hold, args=(str(tmp_path), store.public_uri("0"), theirs))
    worker.start()
    assert ours.poll(60)
    end = time.monotonic() + 30
    while gets(store) < FILES and time.monotonic() < end:
        time.sleep(0.02)
    assert worker.pid
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(20)
    assert on_disk(tmp_path) > 0, "it was half fetched"
    cache = SeriesCache(tmp_path, SERIES_BYTES)
    cache.prefetch(place(store, 1))  # which needs all the room
    assert on_disk(tmp_path) == cache.used_bytes() == SERIES_BYTES
    cache.prefetch(place(store, 0))
    with cache.held(place(store, 0)) as folder:
        assert len(list(folder.iterdir())) == FILES
