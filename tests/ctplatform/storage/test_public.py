"""Public buckets: their URIs, and anonymous reading from S3 and Google servers on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctplatform.storage.public import DamagedError, PublicBucket, public_place, public_uri
from tests.ctplatform.googlestore import GoogleStore
from tests.ctplatform.objectstore import ObjectStore, Stored

UUID = "7271ab1d-bb03-4ca9-9457-dabcafd4d33f"


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    server = ObjectStore()
    yield server
    server.close()


class Damaged(Stored):
    """An object whose ETag is the MD5 of something else."""

    @property
    def etag(self) -> str:
        return '"' + "0" * 32 + '"'


class InParts(Stored):
    """An object that was uploaded in parts: its ETag is no MD5."""

    @property
    def etag(self) -> str:
        return '"' + "0" * 32 + '-2"'


def bucket_of(uri: str) -> PublicBucket:
    place = public_place(uri)
    assert place is not None
    return PublicBucket(place)


@pytest.mark.parametrize(
    ("uri", "store", "bucket", "immutable"),
    [
        (f"s3://idc-open-data/{UUID}", "s3", "idc-open-data", True),
        (f"s3://idc-open-data-two/{UUID}/", "s3", "idc-open-data-two", True),
        (f"gs://idc-open-cr/{UUID}", "gs", "idc-open-cr", True),
        ("s3://idc-open-data/some-folder", "s3", "idc-open-data", False),
        (f"s3://anonymous@elsewhere/{UUID}", "s3", "elsewhere", False),
    ],
)
def test_what_is_public(uri: str, store: str, bucket: str, immutable: bool) -> None:
    place = public_place(uri)
    assert place is not None
    assert (place.store, place.bucket, place.immutable) == (store, bucket, immutable)
    assert not place.key.endswith("/")


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://private/{UUID}",
        f"s3://user:secret@idc-open-data/{UUID}",
        f"gs://idc-open-data-two/{UUID}",  # the name of Amazon's
        "/data/idc-open-data/x",
        f"https://idc-open-data/{UUID}",
    ],
)
def test_what_is_not(uri: str) -> None:
    assert public_place(uri) is None


def test_uris_of_both_stores_name_their_own_bucket() -> None:
    assert public_uri("idc-open-data-two", UUID) == f"s3://idc-open-data-two/{UUID}"
    assert public_uri("idc-open-data-two", UUID, store="gs") == f"gs://idc-open-idc1/{UUID}"


def test_requests_go_to_the_hosts_of_the_stores() -> None:
    for uri, host, root in [
        (f"s3://idc-open-data/{UUID}", "idc-open-data.s3.us-east-1.amazonaws.com", ""),
        ("s3://anonymous@a.b/k?region=eu-west-1", "s3.eu-west-1.amazonaws.com", "/a.b"),
        (f"gs://idc-open-data/{UUID}", "storage.googleapis.com", None),
    ]:
        bucket = bucket_of(uri)
        assert bucket._host() == host
        if root is not None:
            assert bucket._s3_root() == root


def test_s3_without_an_account(store: ObjectStore, tmp_path: Path) -> None:
    content = {f"x/{n:04d} ä+.dcm": bytes([n % 256]) * n for n in range(1, 1203)}  # more than a page
    store.objects.update({key: Stored(data) for key, data in content.items()})
    store.objects["x/deeper/no.dcm"] = store.objects["xx/no.dcm"] = Stored(b"no")
    bucket = bucket_of(store.public_uri("x"))
    items = bucket.items()
    assert [(i.key, i.size) for i in items] == [(key, len(data)) for key, data in sorted(content.items())]
    assert items[0].md5 == hashlib.md5(content[items[0].key]).hexdigest()
    before = len(store.requests)
    for item in items[:3]:
        bucket.fetch(item, tmp_path / item.name)
        assert (tmp_path / item.name).read_bytes() == content[item.key]
    assert len(store.requests) - before == 3, "one request an object"
    assert not any("Authorization" in request for request in store.requests)


def test_google_without_an_account(tmp_path: Path) -> None:
    server = GoogleStore(tmp_path / "google")
    try:
        server.objects["x/a b.dcm"] = b"a" * 3_000_000
        server.objects["y/c.dcm"] = b"c"
        bucket = bucket_of(server.uri("x"))
        (item,) = bucket.items()
        assert (item.name, item.size, item.md5) == (
            "a b.dcm",
            3_000_000,
            hashlib.md5(b"a" * 3_000_000).hexdigest(),
        )
        bucket.fetch(item, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"a" * 3_000_000
        assert bucket_of(server.uri("none")).items() == []
    finally:
        server.close()


def test_damage_is_found(store: ObjectStore, tmp_path: Path) -> None:
    store.objects["x/a"] = Damaged(b"a" * 10)
    store.objects["x/b"] = InParts(b"b" * 10)
    store.objects["x/c"] = Stored(b"c" * 10)
    bucket = bucket_of(store.public_uri("x"))
    damaged, in_parts, shortened = bucket.items()
    with pytest.raises(DamagedError, match="MD5"):
        bucket.fetch(damaged, tmp_path / "a")
    bucket.fetch(in_parts, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"b" * 10
    store.objects["x/c"] = Stored(b"c" * 9)
    with pytest.raises(DamagedError, match="9 of 10 bytes"):
        bucket.fetch(shortened, tmp_path / "c")


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, PermissionError), (401, PermissionError), (404, FileNotFoundError), (503, OSError)],
)
def test_refusals(store: ObjectStore, status: int, error: type[OSError], tmp_path: Path) -> None:
    store.objects["x/a"] = Stored(b"a")
    bucket = bucket_of(store.public_uri("x"))
    (item,) = bucket.items()
    store.fail("GET", "x/", times=2, status=status)
    with pytest.raises(error, match=f"HTTP status {status}"):
        bucket.items()
    with pytest.raises(error, match=f"HTTP status {status}"):
        bucket.fetch(item, tmp_path / "a")
    bucket.fetch(item, tmp_path / "a")


def test_a_server_that_is_not_there() -> None:
    bucket = bucket_of("s3://anonymous@b/x?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(OSError, match="connection"):
        bucket.items()


def test_a_connection_serves_one_series_after_the_other(store: ObjectStore, tmp_path: Path) -> None:
    store.objects |= {f"{folder}/{n}": Stored(bytes([n])) for folder in "xy" for n in range(3)}
    for folder in "xy":
        bucket = bucket_of(store.public_uri(folder))
        for item in bucket.items():
            bucket.fetch(item, tmp_path / f"{folder}{item.name}")
    assert len(store.clients) == 8
    assert len(set(store.clients)) == 1


def test_a_connection_that_the_server_closed_is_replaced(tmp_path: Path) -> None:
    server = ObjectStore()
    server.objects["x/a"] = Stored(b"a")
    port = server.server.server_port
    bucket = bucket_of(server.public_uri("x"))
    (item,) = bucket.items()
    server.close()
    server.end_connections()
    with pytest.raises(OSError, match="connection"):
        bucket.fetch(item, tmp_path / "a")
    again = ObjectStore(port=port)
    again.objects["x/a"] = Stored(b"a")
    try:
        bucket.fetch(item, tmp_path / "a")
        again.end_connections()
        bucket.fetch(item, tmp_path / "a")
    finally:
        again.close()
    assert len(set(again.clients)) == 2


def test_a_connection_in_the_middle_of_an_answer_is_not_used_again(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.objects["x/a"] = Stored(b"a" * (8 << 20))
    store.objects["x/b"] = Stored(b"b")
    bucket = bucket_of(store.public_uri("x"))
    large, small = bucket.items()
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        bucket.fetch(large, tmp_path / "full")
    bucket.fetch(small, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"b"
