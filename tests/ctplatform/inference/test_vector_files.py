"""Files of vectors hold a row a scan, whatever came of it, and are whole or absent."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctplatform.errors import StageError
from ctplatform.inference.scan_embedding import EmbeddedScan, ScanEmbedding
from ctplatform.inference.vector_files import PatchFile, check_output, replacing, write_vectors
from ctplatform.preparation.quality import Verdict


def scans(*, paths: bool = True) -> list[EmbeddedScan]:
    found = ScanEmbedding(
        verdict=Verdict("accepted"),
        patient_P=np.arange(4, dtype=np.float32),
        patches_NP=np.arange(12, dtype=np.float32).reshape(3, 4),
        inside_N=np.array([1, 0.5, 0], np.float32),
        centres_mm_N3=np.arange(9.0).reshape(3, 3),
        affine=np.eye(4),
        overlay=None,
        fields={},
        steps={},
    )
    good = {"scan_id": "a", "subject_id": "p", "state": "accepted", "reason": "", "dice": 0.9}
    good["affine"] = np.eye(4).ravel().tolist()
    bad = {"scan_id": "b", "subject_id": "q", "state": "failed", "reason": "the file ends early"}
    rows = [good, bad]
    if paths:
        rows = [row | {"path": f"/x/{row['scan_id']}.nii.gz"} for row in rows]
    return [EmbeddedScan(rows[0], found), EmbeddedScan(rows[1], None)]


def test_parquet(tmp_path):
    write_vectors(tmp_path / "x.parquet", scans())
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.schema.field("vector").type == pa.list_(pa.float32())
    assert table.schema.field("dice").type == pa.float64()
    rows = table.to_pylist()
    assert [row["scan_id"] for row in rows] == ["a", "b"]
    assert rows[0]["vector"] == [0, 1, 2, 3]
    assert rows[1]["vector"] is None
    assert rows[1]["reason"] == "the file ends early"
    assert rows[0]["affine"] == np.eye(4).ravel().tolist()
    assert rows[0]["path"] == "/x/a.nii.gz"
    write_vectors(tmp_path / "x.parquet", scans(paths=False))
    assert "path" not in pq.read_table(tmp_path / "x.parquet").column_names


def test_csv(tmp_path):
    write_vectors(tmp_path / "x.csv", scans())
    table = pd.read_csv(tmp_path / "x.csv")
    assert table.loc[0, ["v0", "v3"]].tolist() == [0, 3]
    assert table.loc[1, ["v0", "v3"]].isna().all()
    assert json.loads(table["affine"][0]) == np.eye(4).ravel().tolist()


def test_npz(tmp_path):
    write_vectors(tmp_path / "x.npz", scans())
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["scan_id"].tolist() == ["a", "b"]
        assert arrays["patient_SP"].shape == (2, 4)
        assert arrays["patches_SNP"].shape == (2, 3, 4)
        assert arrays["patches_SNP"].dtype == np.float32
        assert np.isnan(arrays["patches_SNP"][1]).all()
        assert arrays["affine_S44"].dtype == np.float64
        np.testing.assert_array_equal(arrays["centres_mm_SN3"][0], np.arange(9.0).reshape(3, 3))
    write_vectors(tmp_path / "none.npz", scans()[1:])
    with np.load(tmp_path / "none.npz") as arrays:
        assert set(arrays) == {"scan_id", "state", "reason"}


def test_patches(tmp_path):
    for name, added in (("some", scans()), ("none", scans()[1:])):
        file = PatchFile(tmp_path / f"{name}.parquet")
        for scan in added:
            file.add(scan)
        file.close()
    table = pq.read_table(tmp_path / "some.parquet").to_pandas()
    assert table["scan_id"].tolist() == ["a"] * 3
    assert table["location"].tolist() == [0, 1, 2]
    assert table["z_mm"].tolist() == [2, 5, 8]
    assert table["vector"][2].tolist() == [8, 9, 10, 11]
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    (tmp_path / "x.csv").write_text("old")

    def write() -> None:
        with replacing(tmp_path / "x.csv") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_outputs_are_checked_first(tmp_path):
    assert check_output(tmp_path / "new" / "x.csv").parent.is_dir()
    with pytest.raises(StageError, match=r"\.parquet or \.csv or \.npz"):
        check_output(tmp_path / "x.txt")
    (tmp_path / "file").touch()
    with pytest.raises(StageError, match="cannot be made"):
        check_output(tmp_path / "file" / "x.csv")
