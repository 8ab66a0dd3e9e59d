"""Series of public buckets as scans: the same volume, and every trouble a row of the ledger with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from ctplatform.compute.isolation import PART_SIZE
from ctplatform.dataset import ledger
from ctplatform.errors import ScanError
from ctplatform.imaging.fingerprint import fingerprint
from ctplatform.imaging.volume import content_hash, read_volume
from ctplatform.preparation.plan import fingerprints
from ctplatform.preparation.prepare import prepare
from ctplatform.storage import retry
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.series_cache import FOLDER_VARIABLE, SIZE_VARIABLE, SeriesCache
from tests.ctplatform.googlestore import GoogleStore
from tests.ctplatform.objectstore import ObjectStore, Stored

UUID = "7271ab1d-bb03-4ca9-9457-dabcafd4d33f"


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    server = ObjectStore()
    yield server
    server.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)


def problem(uri: str) -> ScanError:
    with pytest.raises(ScanError) as caught:
        read_volume(uri)
    return caught.value


def test_the_volume_is_that_of_the_folder(store: ObjectStore, series: Path, tmp_path: Path) -> None:
    local = content_hash(read_volume(series))
    store.load(series, UUID)
    assert content_hash(read_volume(store.public_uri(UUID))) == local
    google = GoogleStore(tmp_path / "google")
    try:
        google.load(series, UUID)
        assert content_hash(read_volume(google.uri(UUID))) == local
    finally:
        google.close()


@pytest.mark.usefixtures("soon")
def test_troubles_have_codes(store: ObjectStore, series: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    store.load(series, UUID)
    uri = store.public_uri(UUID)
    assert problem(store.public_uri("none")).code == "missing-path"
    store.fail("GET", UUID, times=1, status=403)
    assert problem(uri).code == "access-denied"
    store.fail("GET", f"{UUID}/", times=1, status=0)  # the listing passes
    store.fail("GET", f"{UUID}/", times=1, status=404)  # an image is gone
    assert "HTTP 404" in problem(uri).problem
    store.fail("GET", UUID, times=2, status=503)
    found = problem(uri)
    assert (found.code, "tried 2 time(s) (HTTP 503)" in found.problem) == ("io-error", True)
    monkeypatch.setenv(SIZE_VARIABLE, "0.000001")
    found = problem(uri)
    assert found.code == "cache-too-small"
    assert SIZE_VARIABLE in found.remedy
    monkeypatch.delenv(SIZE_VARIABLE)
    store.fail("GET", UUID, times=1, status=503)
    assert read_volume(uri).image.GetSize()[2] == 20


def test_a_name_that_changes_with_its_content_is_not_listed() -> None:
    server = "endpoint_override=127.0.0.1:1&scheme=http"  # nothing listens there
    first = fingerprint(f"s3://idc-open-data/{UUID}?{server}", "1.2")
    assert len(first) == 12
    assert first == fingerprint(f"gs://idc-open-data/{UUID}", "1.2"), "the same series in the other store"
    assert first != fingerprint(f"s3://idc-open-data/{UUID}?{server}", "1.3")
    assert first != fingerprint(f"s3://idc-open-data/{UUID[:-1]}0?{server}", "1.2")


def test_a_plan_of_many_public_scans_needs_neither_network_nor_ray(monkeypatch) -> None:
    """No task is made, and nothing listens at the address."""
    import ray

    monkeypatch.delattr(ray, "remote")
    server = "endpoint_override=127.0.0.1:1&scheme=http"
    scans = [(f"s3://idc-open-data/{UUID[:-4]}{n:04x}?{server}", str(n)) for n in range(PART_SIZE + 1)]
    found = fingerprints(scans)
    assert len(set(found)) == PART_SIZE + 1
    assert "" not in found


def test_another_fingerprint_when_a_public_folder_changes(store: ObjectStore, series: Path) -> None:
    store.load(series, "x")
    uri = store.public_uri("x")
    first = fingerprint(uri)
    assert len(first) == 12
    assert fingerprint(uri) == first
    name = next(iter(store.objects))
    store.objects[name] = Stored(store.objects[name].data + b"\0")
    assert fingerprint(uri) != first


def test_prepare_from_a_public_bucket(store: ObjectStore, prepared, unprepared, small_recipe) -> None:
    """The shard is that of the local folder, byte for byte; what vanished and what is refused are rows."""
    local, cohort = prepared
    folders = cohort[[Path(path).is_dir() for path in cohort["path"]]].head(1)
    scan = folders["scan_id"].iloc[0]
    store.load(Path(folders["path"].iloc[0]), UUID)
    uris = [store.public_uri(UUID), store.public_uri("vanished"), store.public_uri("forbidden")]
    store.fail("GET", "forbidden", times=10**6, status=403)
    table = pd.DataFrame(
        {
            "scan_id": [scan, "gone", "denied"],
            "subject_id": [folders["subject_id"].iloc[0], "a", "b"],
            "path": uris,
        }
    ).assign(series_uid="")
    summary = prepare(unprepared, table, small_recipe)
    assert summary.done == 3
    name = f"{scan}.parquet"
    assert unprepared.read_bytes(PATCHES, name) == local.read_bytes(PATCHES, name)
    columns = ["scan_id", "state", "code", "reason", "remedy", "steps"]
    rows = ledger.read_ledger(unprepared, columns=columns).set_index("scan_id")
    assert {"fetch", "read"} <= json.loads(rows.loc[scan, "steps"]).keys()
    assert (SeriesCache.of_this_node().root / "slots" / "queue").exists(), (
        "series are fetched ahead by default"
    )
    assert rows["code"].to_dict() == {scan: "", "gone": "missing-path", "denied": "access-denied"}
    assert set(rows.loc[["gone", "denied"], "state"]) == {"failed"}
    assert rows.loc[["gone", "denied"], ["reason", "remedy"]].ne("").all(axis=None)
    again = prepare(unprepared, table, small_recipe)
    assert (again.done, again.skipped) == (2, 1)
    assert again.causes == {"retry: missing-path": 1, "retry: access-denied": 1}
