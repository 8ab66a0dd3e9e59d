"""Scans, tables and workspaces on an object store, through pyarrow's own S3 client and an S3 server on loopback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.fs as pafs
import pytest
import SimpleITK as sitk

from ctplatform.cli.explain import explain
from ctplatform.cohort.table import read_cohort
from ctplatform.dataset import ledger
from ctplatform.errors import CohortError, ScanError, StageError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import content_hash, read_volume
from ctplatform.preparation.prepare import prepare
from ctplatform.storage import retry
from ctplatform.storage.layout import ATLAS, PATCHES
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.googlestore import GoogleStore
from tests.ctplatform.objectstore import ObjectStore, Stored
from tests.ctplatform.scans import chest


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    server = ObjectStore()
    yield server
    server.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between our own attempts that a test can wait for."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)


def test_volumes_series_and_tables_on_s3(store: ObjectStore, tmp_path: Path) -> None:
    sitk.WriteImage(chest(), str(tmp_path / "a.nii.gz"))
    write_dicom_series(chest(), tmp_path / "series")
    (tmp_path / "cohort.csv").write_text("scan_id,path\na,a.nii.gz\nb,/data/b\n")
    store.load(tmp_path, "in")
    local = content_hash(read_volume(tmp_path / "a.nii.gz"))
    assert content_hash(read_volume(store.uri("in/a.nii.gz"))) == local
    assert content_hash(read_volume(store.uri("in/series"))) == local
    cohort = read_cohort(store.uri("in/cohort.csv"))
    assert list(cohort["path"]) == [store.uri("in/a.nii.gz"), "/data/b"]
    assert content_hash(read_volume(cohort["path"][0])) == local


def test_what_is_missing_on_s3(store: ObjectStore) -> None:
    store.objects["other.txt"] = Stored(b"x")
    with pytest.raises(ScanError) as scan:
        read_volume(store.uri("in/none.nii.gz"))
    assert scan.value.code == "missing-path"
    with pytest.raises(ScanError) as scan:
        read_volume(store.uri("in/none.mhd"))
    assert scan.value.code == "unknown-format"
    with pytest.raises(CohortError) as table:
        read_cohort(store.uri("in/none.csv"))
    assert table.value.code == "missing-path"


def test_files_of_a_workspace_on_s3(store: ObjectStore) -> None:
    workspace = Workspace(store.uri("ws"))
    large = bytes(range(256)) * 60_000  # more than one part of an upload
    workspace.write_bytes(large, "deep", "x.bin")
    workspace.write_json({"a": 1}, "deep", "y.json")
    assert workspace.read_bytes("deep", "x.bin") == large
    assert workspace.files("deep") == ["x.bin", "y.json"]
    assert workspace.folders() == ["deep"]
    workspace.delete("deep", "x.bin")
    workspace.delete("deep", "x.bin")
    assert not workspace.exists("deep", "x.bin")
    for number in range(1100):
        store.objects[f"ws/many/{number:04d}"] = Stored(b"")
    assert len(workspace.files("many")) == 1100, "more than a page of a listing"
    assert workspace.display("a") == "s3://b/ws/a", "options and credentials are not shown"
    assert Workspace(workspace.uri_of("deep")).read_json("y.json") == {"a": 1}


def test_prepare_on_s3_is_prepare_on_a_disk(store: ObjectStore, prepared, small_recipe, monkeypatch) -> None:
    """Scans read from the store, everything written to it, while it refuses some requests; then again."""
    local, cohort = prepared
    store.load(Path(local.path(ATLAS)), f"ws/{ATLAS}")
    series = cohort[~cohort["path"].str.endswith(".nii.gz")].head(1)
    few = pd.concat([series, cohort[cohort["path"].str.endswith(".nii.gz")].head(1)]).reset_index(drop=True)
    for path in few["path"]:
        if Path(path).is_dir():
            store.load(Path(path), f"in/{Path(path).name}")
        else:
            store.objects[f"in/{Path(path).name}"] = Stored(Path(path).read_bytes())
    few = few.assign(path=[store.uri(f"in/{Path(path).name}") for path in few["path"]])
    store.fail("PUT", "ws/patches", times=2)
    store.fail("GET", "in/", times=2)
    store.fail("PUT", "ws/scans", times=2)
    workspace = Workspace(store.uri("ws"))
    assert prepare(workspace, few, small_recipe).done == 2
    assert all(fault.times == 0 for fault in store.faults), "the store did refuse"
    for scan in few["scan_id"]:
        name = f"{scan}.parquet"
        assert workspace.read_bytes(PATCHES, name) == local.read_bytes(PATCHES, name)
    names = [n for n in ledger.SCHEMA.names if n not in (*ledger.TIMES, "fingerprint")]
    here = ledger.read_ledger(workspace, columns=names)
    there = ledger.read_ledger(local, columns=names)
    there = there[there["scan_id"].isin(few["scan_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(here, there)
    before = dict(store.objects)
    again = prepare(workspace, few, small_recipe)
    assert (again.done, again.skipped) == (0, 2)
    assert store.objects == before
    found = explain(workspace, few["scan_id"][0])
    assert found["shard"]["file"] == f"s3://b/ws/patches/{few['scan_id'][0]}.parquet"
    assert found["shard"]["problem"] == ""


@pytest.mark.usefixtures("soon")
def test_a_store_that_recovers_is_waited_for_and_said(store: ObjectStore, caplog) -> None:
    workspace = Workspace(store.uri("ws"))
    workspace.write_json([1], "x.json")
    store.fail("GET", "x.json", times=3)
    with caplog.at_level(logging.WARNING, logger="ctplatform"):
        assert workspace.read_json("x.json") == [1]
    assert any("s3://b/ws/x.json" in text and "trying again" in text for text in caplog.messages)


@pytest.mark.usefixtures("soon")
def test_a_store_that_does_not_recover(store: ObjectStore, monkeypatch) -> None:
    store.objects["in/a.nii.gz"] = store.objects["ws/x.json"] = Stored(b"x" * 1000)
    store.fail("GET", ".", times=10**6)
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    with pytest.raises(ScanError) as scan:
        read_volume(store.uri("in/a.nii.gz"))
    assert scan.value.code == "io-error"
    assert "tried 1 time(s)" in scan.value.problem
    with pytest.raises(StageError, match="resumes where this one stopped") as stage:
        Workspace(store.uri("ws")).read_bytes("x.json")
    assert stage.value.code == "store"


def test_what_cannot_pass_is_not_tried_again(store: ObjectStore) -> None:
    store.fail("GET", "secret", times=10**6, status=403)
    store.fail("HEAD", "secret", times=10**6, status=403)
    with pytest.raises(ScanError) as scan:
        read_volume(store.uri("secret/a.nii.gz"))
    assert scan.value.code == "missing-path"
    assert len([request for request in store.requests if "secret" in request]) < 4


@pytest.fixture
def google(tmp_path: Path) -> Iterator[GoogleStore]:
    server = GoogleStore(tmp_path / "google")
    yield server
    server.close()


def test_scans_and_workspaces_on_google_storage(google: GoogleStore, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    sitk.WriteImage(chest(), str(folder / "a.nii.gz"))
    write_dicom_series(chest(), folder / "series")
    google.load(folder, "in")
    local = content_hash(read_volume(folder / "a.nii.gz"))
    assert content_hash(read_volume(google.uri("in/a.nii.gz"))) == local
    assert content_hash(read_volume(google.uri("in/series"))) == local
    with pytest.raises(ScanError) as scan:
        read_volume(google.uri("in/none.nii.gz"))
    assert scan.value.code == "missing-path"

    workspace = Workspace(google.uri("ws"))
    data = bytes(range(256)) * 40_000  # more than one chunk of an upload
    workspace.write_bytes(data, "a", "b.bin")
    assert google.objects["ws/a/b.bin"] == data
    assert workspace.read_bytes("a", "b.bin") == data
    assert workspace.files("a") == ["b.bin"]
    assert workspace.exists("a", "b.bin")
    assert not workspace.exists("a", "c.bin")
    ledger.write_row(workspace, {"scan_id": "x", "subject_id": "y", "state": "accepted", "dice": 0.5})
    assert ledger.read_ledger(workspace)["dice"].tolist() == [0.5]
    workspace.delete("a", "b.bin")
    assert workspace.files("a") == []


def test_prepare_on_google_storage_is_prepare_on_a_disk(google: GoogleStore, prepared, small_recipe) -> None:
    source, cohort = prepared
    google.load(Path(source.path(ATLAS)), f"ws/{ATLAS}")
    workspace = Workspace(google.uri("ws"))
    summary = prepare(workspace, cohort.head(1), small_recipe)
    assert summary.done == 1
    name = f"{cohort['scan_id'][0]}.parquet"
    assert google.objects[f"ws/{PATCHES}/{name}"] == source.read_bytes(PATCHES, name)


def test_names_of_google_storage() -> None:
    workspace = Workspace("gs://anonymous@bucket/folder")
    assert isinstance(workspace.fs, pafs.GcsFileSystem)
    assert workspace.path("a", "b") == "bucket/folder/a/b"
    assert not workspace.is_local
    assert workspace.display("a") == "gs://bucket/folder/a"
    with pytest.raises(StageError, match="s3:// or gs://"):
        Workspace("ftp://somewhere/x")
