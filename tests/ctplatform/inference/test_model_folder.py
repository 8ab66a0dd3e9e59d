"""Model folders of any kind: written equals read; damaged ones and those of later versions are refused."""

import json

import numpy as np
import pytest

from ctplatform.errors import StageError
from ctplatform.inference.model_folder import HEAD, LABEL_MAP, model_files, read_folder


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_written_equals_read(tmp_path):
    tensors = {"a": np.arange(3.0), "b": np.eye(2)[:, ::-1]}
    files = model_files(LABEL_MAP, {"task": {"name": "mine"}}, tensors, {"weights.safetensors": b"w"})
    assert list(files)[-1] == "card.json"
    found = read_folder(write(tmp_path / "model", files))
    np.testing.assert_array_equal(found.tensors["b"], tensors["b"])
    assert found.card["task"] == {"name": "mine"}
    assert found.encoder == str(tmp_path / "model" / "encoder")
    without = write(tmp_path / "head", model_files(HEAD, {"task": {}}, tensors))
    assert read_folder(without).encoder == ""


def test_a_folder_without_its_network_is_refused(tmp_path):
    files = model_files(LABEL_MAP, {}, {"a": np.zeros(1)}, {"weights.safetensors": b"w"})
    del files["encoder/weights.safetensors"]
    with pytest.raises(StageError, match=r"lacks encoder/weights\.safetensors"):
        read_folder(write(tmp_path, files))


def test_models_of_later_versions_are_refused(tmp_path):
    write(tmp_path, model_files(HEAD, {"software": "99.1.0"}, {"a": np.zeros(1)}))
    with pytest.raises(StageError, match=r"made by drasclr 99\.1\.0, and this is"):
        read_folder(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(card | {"software": "of unknown origin"}))
    assert read_folder(tmp_path).card["software"] == "of unknown origin"
