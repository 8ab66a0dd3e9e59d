"""Tables of vectors of other encoders."""

import numpy as np
import pandas as pd
import pytest

from ctplatform.errors import StageError
from ctplatform.inference.external import read_external
from ctplatform.inference.representations import representation_of


def test_a_list_column_and_columns_of_numbers_are_the_same(tmp_path):
    x_NP = np.random.default_rng(0).normal(size=(3, 4))
    ids = ["a", "b", "007"]
    pd.DataFrame({"scan_id": ids, "text": "x", "vector": list(x_NP)}).to_parquet(tmp_path / "list.parquet")
    wide = pd.DataFrame(x_NP, columns=[f"f{i}" for i in range(4)]).assign(scan_id=ids, subject_id="s")
    wide.to_parquet(tmp_path / "wide.parquet")
    wide.to_csv(tmp_path / "wide.csv", index=False)
    for name in ("list.parquet", "wide.parquet", "wide.csv"):
        found, vectors = read_external(str(tmp_path / name))
        assert found == ids
        np.testing.assert_allclose(vectors, x_NP, rtol=1e-12)


def test_a_scan_without_a_whole_vector_is_left_out(tmp_path):
    pd.DataFrame({"scan_id": ["a", "b"], "f0": [1.0, None], "f1": [2.0, 3.0]}).to_csv(
        tmp_path / "v.csv", index=False
    )
    assert read_external(str(tmp_path / "v.csv"))[0] == ["a"]
    lists = pd.DataFrame({"scan_id": ["a", "b"], "vector": [None, [1.0, 2.0]]})
    lists.to_parquet(tmp_path / "v.parquet")
    assert read_external(str(tmp_path / "v.parquet"))[0] == ["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,f\na,1\n", "no column 'scan_id'"),
        ("scan_id,f\na,1\na,2\n", "more than one vector of scan 'a'"),
        ("scan_id,f,kernel\na,1,B30f\n", "no numbers: kernel"),
        ("scan_id\na\n", "no column of numbers"),
    ],
)
def test_what_is_no_table_of_vectors_is_said(tmp_path, text, message):
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(StageError, match=message):
        read_external(str(tmp_path / "v.csv"))
    with pytest.raises(StageError, match="no table of vectors"):
        read_external(str(tmp_path / "none.parquet"))


def test_scans_of_a_subject_are_averaged():
    scans = pd.DataFrame({"scan_id": ["a", "b", "c"], "subject_id": ["s", "s", "t"]})
    found = representation_of(
        pd.Series(["c", "b", "a", "z"]), np.array([[9.0], [3.0], [1.0], [7.0]]), scans=scans
    )
    assert found.subjects == ("s", "t")
    assert found.x_NP.tolist() == [[2.0], [9.0]]
    assert representation_of(pd.Series(["z"]), np.ones((1, 1)), scans=scans) is None


def test_a_folder_has_a_file_a_scan(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    np.savez(folder / "b.npz", vector=[3.0, 4.0], patches=np.ones((5, 2)))
    np.savez(folder / "007.npz", [1.0, 2.0])
    np.savez(folder / "c.npz", vector=[np.nan, 2.0])
    ids, x_NP = read_external(str(folder))
    assert ids == ["007", "b"]
    assert x_NP.tolist() == [[1, 2], [3, 4]]
    assert read_external(f"{folder.as_uri()}")[0] == ids


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no .npz file"),
        ({"a": {"vector": np.ones((2, 2))}}, r"a.npz has an array of shape \[2, 2\], not \[P\]"),
        ({"a": {"x": [1.0], "y": [1.0]}}, r"a\.npz cannot be read"),
        ({"a": {"vector": [1.0]}, "b": {"vector": [1.0, 2.0]}}, r"lengths \[1, 2\]"),
    ],
)
def test_what_is_no_folder_of_vectors_is_said(tmp_path, arrays, message):
    for name, own in arrays.items():
        np.savez(tmp_path / f"{name}.npz", **own)
    with pytest.raises(StageError, match=message):
        read_external(str(tmp_path))


def test_a_file_that_is_no_archive_is_said(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK no archive")
    with pytest.raises(StageError, match=r"a\.npz cannot be read"):
        read_external(str(tmp_path))
