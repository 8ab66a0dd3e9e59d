"""Files are written whole, byte for byte, and unfinished ones are never seen."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from ctplatform.errors import StageError
from ctplatform.storage.workspace import TEMPORARY, Workspace


@pytest.mark.parametrize("name", ["a.bin", "a.gz", "a.nii.gz", "a.bz2"])
def test_bytes_come_back_as_they_were_whatever_the_name(tmp_path, name):
    workspace = Workspace(tmp_path)
    workspace.write_bytes(b"\x1f\x8b not really gzip", "folder", name)
    assert workspace.read_bytes("folder", name) == b"\x1f\x8b not really gzip"
    assert (tmp_path / "folder" / name).read_bytes() == b"\x1f\x8b not really gzip"


def test_a_write_replaces_and_leaves_nothing_beside(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.write_json({"a": 1}, "x.json")
    workspace.write_json({"a": 2}, "x.json")
    assert workspace.read_json("x.json") == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_what_a_killed_writer_left_is_not_listed(tmp_path):
    workspace = Workspace(tmp_path)
    (tmp_path / f"{TEMPORARY}123-a.parquet").write_bytes(b"half")
    workspace.write_table(pa.table({"a": [1, 2]}), "b.parquet")
    assert workspace.files(suffix=".parquet") == ["b.parquet"]
    assert workspace.read_table("b.parquet").column("a").to_pylist() == [1, 2]


def test_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(StageError, match="Run the stage that writes it first"):
        Workspace(tmp_path).read_bytes("nothing")
    assert Workspace(tmp_path).files("nothing") == []


def test_it_travels_to_workers(tmp_path):
    workspace = pickle.loads(pickle.dumps(Workspace(tmp_path)))
    workspace.write_json([1], "x.json")
    assert Workspace(tmp_path) == workspace
    assert Workspace(str(tmp_path)).read_json("x.json") == [1]


def test_file_uris_work_like_paths(tmp_path):
    Workspace(f"file://{tmp_path}").write_json([2], "deep", "y.json")
    assert Workspace(tmp_path).read_json("deep", "y.json") == [2]


def test_tables_with_extension_types_are_refused(tmp_path):
    """Known to this process or not, and also inside of a list."""
    workspace = Workspace(tmp_path)
    values = pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2))
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int64(), (2,)), values)
    workspace.write_table(pa.table({"plain": [1, 2], "foreign": tensors}), "known.parquet")
    marked = pa.field("other", pa.int64(), metadata={"ARROW:extension:name": "someone.else"})
    workspace.write_table(pa.table([[1, 2]], schema=pa.schema([marked])), "unknown.parquet")
    for name, column in (("known.parquet", "foreign"), ("unknown.parquet", "other")):
        with pytest.raises(StageError, match=f"extension types: {column}"):
            workspace.read_table(name)
    workspace.write_table(pa.table({"plain": [1, 2], "list": values}), "plain.parquet")
    assert workspace.read_table("plain.parquet", columns=["plain"]).to_pydict() == {"plain": [1, 2]}
